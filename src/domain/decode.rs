//! From the bytes of a delivery to a checked job. Strict: every fault is named by its field, and never by its value.
//!
//! It must not know where the bytes come from, nor which apps are configured.

use std::collections::HashSet;

use super::{
    AccountId, JobId,
    job::{DecodeError, Job, JobType, MAX_RECIPIENTS, RevokeTarget, Task},
    json::{self, Fault, Node, ParseError, fault::one_of, from_node, tree::Field},
    message::Message,
    policy::SendWindow,
    wire::{
        BatchSend, ENVELOPE, Envelope, GroupTarget, History, Import, JobTarget, MarkRead, MessageTarget, NOT_IN_BATCH,
        NOT_IN_IMPORT, POLICY, Send, Unread,
    },
};

/// The latest time that an import can carry, in Unix seconds: `MsgTimeStamp` is 32 bits wide. Milliseconds are beyond it.
pub(super) const MAX_TIMESTAMP: u64 = u32::MAX as u64;

impl Job {
    /// Decodes and checks a job. `message_id` is the AMQP property: the id of a job whose body has none. An empty
    /// property counts as absent, and one that differs from the body's id is refused.
    pub fn decode(body: &[u8], message_id: Option<&str>) -> Result<Self, DecodeError> {
        let fields = parse_object(body, "the job")?;
        decode_job(fields, message_id).map_err(|fault| DecodeError::invalid_job(&fault))
    }

    /// Checks every rule of the contract that the types can't say. A decoded job has passed; one that was put together
    /// in code should.
    pub fn check(&self) -> Result<(), DecodeError> {
        check_job(self).map_err(|fault| DecodeError::invalid_job(&fault))
    }
}

impl RevokeTarget {
    /// Decodes and checks a target by itself, without a job around it. Paths start at the target.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let fields = parse_object(body, "the target")?;
        let target = decode_target(fields).map_err(|fault| DecodeError::invalid_job(&fault))?;
        check_target(&target).map_err(|fault| DecodeError::invalid_job(&fault))?;
        Ok(target)
    }
}

fn parse_object<'a>(body: &'a [u8], what: &str) -> Result<Vec<Field<'a>>, DecodeError> {
    match json::parse(body) {
        Ok(Node::Object(fields)) => Ok(fields),
        Ok(other) => {
            let fault = Fault::new(format!("{what} must be a JSON object, not {}", other.kind()));
            Err(DecodeError::invalid_job(&fault))
        }
        Err(ParseError::Refused(fault)) => Err(DecodeError::invalid_job(&fault)),
        Err(ParseError::Syntax(sentence)) => Err(DecodeError::invalid_json(format!("not JSON: {sentence}"))),
    }
}

fn decode_job(fields: Vec<Field<'_>>, message_id: Option<&str>) -> Result<Job, Fault> {
    let job_type = read_type(&fields)?;
    let (envelope, task): (Vec<_>, Vec<_>) = fields
        .into_iter()
        .partition(|(name, _)| ENVELOPE.contains(&name.as_ref()));
    let envelope: Envelope = from_node(Node::Object(envelope))?;
    let task = read_task(job_type, task).map_err(|fault| fault.or_known(&ENVELOPE))?;
    let job = Job {
        id: read_id(envelope.id, message_id)?,
        app: envelope.app,
        group: envelope.group,
        send_at: envelope.send_at,
        expires_at: envelope.expires_at,
        coalesce: envelope.coalesce,
        on_unknown: envelope.on_unknown,
        send_window: envelope.send_window,
        cap: envelope.cap,
        task,
    };
    check_job(&job)?;
    Ok(job)
}

fn read_type(fields: &[Field<'_>]) -> Result<JobType, Fault> {
    let Some((_, value)) = fields.iter().find(|(name, _)| name == "type") else {
        return Err(Fault::missing("type"));
    };
    match value {
        Node::Text(word) => JobType::parse(word),
        _ => None,
    }
    .ok_or_else(|| Fault::new(one_of(&JobType::ALL.map(JobType::as_str))).at("type"))
}

fn read_id(in_body: Option<JobId>, message_id: Option<&str>) -> Result<JobId, Fault> {
    match (in_body, message_id.filter(|id| !id.is_empty())) {
        // Frameworks set a message_id of their own: the job's own word counts.
        (Some(id), _) => Ok(id),
        (None, Some(property)) => {
            JobId::parse(property).map_err(|error| Fault::new(error.to_string()).at("message_id"))
        }
        (None, None) => Err(Fault::new("is missing, here and as the AMQP message_id").at("id")),
    }
}

fn read_task(job_type: JobType, fields: Vec<Field<'_>>) -> Result<Task, Fault> {
    Ok(match job_type {
        JobType::Send => {
            let Send { from, to, message } = from_node(Node::Object(fields))?;
            Task::Send { from, to, message }
        }
        JobType::BatchSend => {
            let BatchSend { from, to, message } = from_node(Node::Object(fields))?;
            Task::BatchSend {
                from,
                to: distinct(to),
                message,
            }
        }
        JobType::Revoke => Task::Revoke(read_target(fields)?),
        JobType::Import => {
            let Import {
                from,
                to,
                message,
                timestamp,
                unread,
            } = from_node(Node::Object(fields))?;
            Task::Import {
                from,
                to,
                message,
                timestamp,
                unread,
            }
        }
        JobType::MarkRead => {
            let MarkRead { user, peer } = from_node(Node::Object(fields))?;
            Task::MarkRead { user, peer }
        }
        JobType::Unread => {
            let Unread { user, peers } = from_node(Node::Object(fields))?;
            Task::Unread {
                user,
                peers: distinct(peers),
            }
        }
        JobType::History => {
            let History {
                from,
                to,
                since,
                until,
                limit,
            } = from_node(Node::Object(fields))?;
            Task::History {
                from,
                to,
                since,
                until,
                limit,
            }
        }
    })
}

/// Removes duplicates and keeps the order of the first ones.
fn distinct(mut accounts: Vec<AccountId>) -> Vec<AccountId> {
    let mut seen = HashSet::with_capacity(accounts.len());
    accounts.retain(|account| seen.insert(account.clone()));
    accounts
}

/// The `target` of a revoke job, which has no other field of its own.
fn read_target(fields: Vec<Field<'_>>) -> Result<RevokeTarget, Fault> {
    let mut target = None;
    for (name, value) in fields {
        if name != "target" {
            return Err(Fault::unknown(&name, &["target"]));
        }
        target = Some(value);
    }
    match target {
        Some(Node::Object(fields)) => decode_target(fields).map_err(|fault| fault.at("target")),
        Some(other) => Err(Fault::new(format!("must be an object, not {}", other.kind())).at("target")),
        None => Err(Fault::missing("target")),
    }
}

/// Which form a target has is told by the field that only that form has, so that a fault can be named.
fn decode_target(fields: Vec<Field<'_>>) -> Result<RevokeTarget, Fault> {
    let has = |field: &str| fields.iter().any(|(name, _)| name == field);
    if has("job") {
        let JobTarget { job, to } = from_node(Node::Object(fields))?;
        let to = to.map(distinct);
        Ok(RevokeTarget::Job { job, to })
    } else if has("group") {
        let GroupTarget { group } = from_node(Node::Object(fields))?;
        Ok(RevokeTarget::Group(group))
    } else if has("msg_key") || has("from") {
        let MessageTarget { from, to, msg_key } = from_node(Node::Object(fields))?;
        Ok(RevokeTarget::Message { from, to, msg_key })
    } else if let Some((name, _)) = fields.iter().find(|(name, _)| name != "to") {
        Err(Fault::unknown(name, &["job", "to", "group", "from", "msg_key"]))
    } else {
        Err(Fault::new("must have `job`, `group`, or `from`, `to` and `msg_key`"))
    }
}

fn check_job(job: &Job) -> Result<(), Fault> {
    if job.coalesce && !matches!(job.task, Task::Send { .. }) {
        return Err(Fault::new(format!(
            "must not be true in a job of type {}, only in a send",
            job.job_type()
        ))
        .at("coalesce"));
    }
    if let (Some(send_at), Some(expires_at)) = (job.send_at, job.expires_at)
        && expires_at <= send_at
    {
        return Err(Fault::new("must be later than `send_at`").at("expires_at"));
    }
    check_policy(job)?;
    check_task(&job.task)
}

fn check_policy(job: &Job) -> Result<(), Fault> {
    let given = [job.send_window.is_some(), job.cap.is_some()];
    if !job.job_type().obeys_policy()
        && let Some((field, _)) = POLICY.into_iter().zip(given).find(|(_, given)| *given)
    {
        let rule = format!(
            "is for a send or a batch_send, not for a job of type {}",
            job.job_type()
        );
        return Err(Fault::new(rule).at(field));
    }
    if let Some((field, rule)) = job.send_window.as_ref().and_then(SendWindow::fault) {
        return Err(Fault::new(rule).at(field).at("send_window"));
    }
    let Some(cap) = &job.cap else { return Ok(()) };
    if let Some((field, rule)) = cap.fault() {
        return Err(Fault::new(rule).at(field).at("cap"));
    }
    if !cap.covers(job.group.as_ref()) {
        let rule = "must be what the job's `group` begins with";
        return Err(Fault::new(rule).at("group_prefix").at("cap"));
    }
    Ok(())
}

fn check_task(task: &Task) -> Result<(), Fault> {
    match task {
        Task::Send { message, .. } => check_message(message, &[], ""),
        Task::BatchSend { to, message, .. } => {
            check_recipients(to)?;
            check_message(
                message,
                &NOT_IN_BATCH,
                "is not for a batch_send: batchsendmsg has no such field",
            )
        }
        Task::Revoke(target) => check_target(target).map_err(|fault| fault.at("target")),
        Task::Import { message, timestamp, .. } => {
            if *timestamp > MAX_TIMESTAMP {
                let rule = format!("must be Unix seconds from 0 to {MAX_TIMESTAMP}, not milliseconds");
                return Err(Fault::new(rule).at("timestamp"));
            }
            check_message(
                message,
                &NOT_IN_IMPORT,
                "is not for an import: importmsg has no such field",
            )
        }
        Task::MarkRead { .. } | Task::Unread { .. } => Ok(()),
        Task::History {
            since, until, limit, ..
        } => {
            if let (Some(since), Some(until)) = (since, until)
                && until < since
            {
                return Err(Fault::new("must not be earlier than `since`").at("until"));
            }
            if *limit == Some(0) {
                return Err(Fault::new("must be at least 1").at("limit"));
            }
            Ok(())
        }
    }
}

fn check_target(target: &RevokeTarget) -> Result<(), Fault> {
    match target {
        RevokeTarget::Job { to: Some(to), .. } => check_recipients(to),
        _ => Ok(()),
    }
}

fn check_recipients(to: &[AccountId]) -> Result<(), Fault> {
    if to.is_empty() {
        return Err(Fault::new("must hold at least one account").at("to"));
    }
    if to.len() > MAX_RECIPIENTS {
        return Err(Fault::new(format!("must hold at most {MAX_RECIPIENTS} entries")).at("to"));
    }
    Ok(())
}

fn check_message(message: &Message, without: &[&str], rule: &str) -> Result<(), Fault> {
    let refused = message
        .options()
        .into_iter()
        .find(|(option, given)| *given && without.contains(option));
    match refused {
        Some((option, _)) => Err(Fault::new(rule).at(option)),
        None => message.check_fields(),
    }
    .map_err(|fault| fault.at("message"))
}

#[cfg(test)]
mod tests;
