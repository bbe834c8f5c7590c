//! Who waits, and who may share a call? Pure rules of one line of sends that may be merged.
//!
//! It knows contents, recipients and the order of arrival; neither budgets nor calls.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use crate::domain::{
    AccountId, ErrorCode, JobId,
    job::{Job, MAX_CALL_RECIPIENTS, Task},
    message::Message,
    policy::SendWindow,
};

/// What members of one call have in common beside the line: the sender, the message by its digest, and when it may go out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::worker) struct Content {
    from: AccountId,
    digest: [u8; 32],
    window: Option<SendWindow>,
}

impl Content {
    /// The content of a send that asked to be merged and can be; `None`: it goes alone.
    ///
    /// batchsendmsg lacks callback control (im-api). A MsgRandom that the job chose is its own call's, and no two calls may
    /// share a pair.
    pub(in crate::worker) fn of(job: &Job, from: &AccountId) -> Option<Self> {
        let Task::Send { message, .. } = &job.task else {
            return None;
        };
        let fits = job.coalesce && message.forbid_callbacks.is_none() && message.random.is_none();
        fits.then(|| Self {
            from: from.clone(),
            digest: message.digest(),
            window: job.send_window,
        })
    }

    /// The sender.
    pub(super) const fn from(&self) -> &AccountId {
        &self.from
    }
}

/// Whether the code, in answer to a whole batch call, is about what its members share, so that each alone would be
/// answered the same. Any other definite refusal may be one member's fault, or the group's as such.
pub(super) const fn is_shared_fault(code: ErrorCode) -> bool {
    matches!(
        code.0,
        20001 | 90001 | 90002 | 90005 | 90006 | 90007 | 90010 | 90026 | 90031 | 90043 | 90044
    )
}

/// One who waits.
#[derive(Debug)]
pub(super) struct Waiting<T> {
    /// The job.
    pub(super) job: JobId,
    /// The recipient.
    pub(super) to: AccountId,
    /// What it waits with.
    pub(super) seat: T,
}

/// Those of one content.
#[derive(Debug)]
struct Pool {
    message: Arc<Message>,
    numbers: BTreeSet<u64>,
}

/// The members of a group, taken out of the line.
#[derive(Debug)]
pub(super) struct Taken<T> {
    /// What all of them send.
    pub(super) message: Arc<Message>,
    /// With distinct jobs and recipients, oldest first.
    pub(super) members: Vec<(u64, Waiting<T>)>,
}

/// Sends that wait for their turn, in the order of their arrival.
#[derive(Debug)]
pub(super) struct Line<T> {
    next: u64,
    waiting: BTreeMap<u64, (Content, Waiting<T>)>,
    pools: HashMap<Content, Pool>,
    mergeable: usize,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self {
            next: 0,
            waiting: BTreeMap::new(),
            pools: HashMap::new(),
            mergeable: 0,
        }
    }
}

impl<T> Line<T> {
    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// How many of them have one of the same content beside them.
    pub(super) const fn mergeable(&self) -> usize {
        self.mergeable
    }

    /// Joins the line; the number is for leaving it.
    pub(super) fn join(&mut self, content: Content, message: &Message, waiting: Waiting<T>) -> u64 {
        self.next += 1;
        let number = self.next;
        let pool = self.pools.entry(content.clone()).or_insert_with(|| Pool {
            message: Arc::new(message.clone()),
            numbers: BTreeSet::new(),
        });
        pool.numbers.insert(number);
        match pool.numbers.len() {
            1 => {}
            2 => self.mergeable += 2,
            _ => self.mergeable += 1,
        }
        self.waiting.insert(number, (content, waiting));
        number
    }

    /// Leaves the line; `None`: its turn has come already.
    pub(super) fn leave(&mut self, number: u64) -> Option<Waiting<T>> {
        let (content, waiting) = self.waiting.remove(&number)?;
        if let Some(pool) = self.pools.get_mut(&content) {
            pool.numbers.remove(&number);
            match pool.numbers.len() {
                0 => {
                    self.pools.remove(&content);
                }
                1 => self.mergeable -= 2,
                _ => self.mergeable -= 1,
            }
        }
        Some(waiting)
    }

    /// Takes the oldest, whatever its content.
    pub(super) fn take_first(&mut self) -> Option<Waiting<T>> {
        let number = *self.waiting.first_key_value()?.0;
        self.leave(number)
    }

    /// The content that most wait for, of those who came first where several do, and how many of them fit in one call.
    /// `None`: nothing can be merged.
    pub(super) fn largest(&self) -> Option<(Content, usize)> {
        if self.mergeable == 0 {
            return None;
        }
        let shareable = self.pools.iter().filter(|(_, pool)| self.is_shareable(pool));
        let (content, pool) = shareable.max_by_key(|(_, pool)| {
            let oldest = pool.numbers.first().copied().unwrap_or(u64::MAX);
            (pool.numbers.len(), u64::MAX - oldest)
        })?;
        Some((content.clone(), pool.numbers.len().min(MAX_CALL_RECIPIENTS)))
    }

    /// Whether two of a pool may be in one call.
    fn is_shareable(&self, pool: &Pool) -> bool {
        let mut waiting = pool.numbers.iter().filter_map(|number| self.waiting.get(number));
        waiting
            .next()
            .is_some_and(|(_, first)| waiting.any(|(_, other)| other.to != first.to && other.job != first.job))
    }

    /// Takes at most so many of one content for one call, oldest first. A recipient, and a job, are never twice in it: the
    /// second waits for another.
    pub(super) fn take(&mut self, content: &Content, most: usize) -> Option<Taken<T>> {
        let pool = self.pools.get(content)?;
        let message = Arc::clone(&pool.message);
        let (mut recipients, mut jobs) = (HashSet::new(), HashSet::new());
        let mut numbers = Vec::with_capacity(most.min(pool.numbers.len()));
        for number in &pool.numbers {
            if numbers.len() == most.min(MAX_CALL_RECIPIENTS) {
                break;
            }
            let Some((_, waiting)) = self.waiting.get(number) else {
                continue;
            };
            if recipients.contains(&waiting.to) || jobs.contains(&waiting.job) {
                continue;
            }
            recipients.insert(waiting.to.clone());
            jobs.insert(waiting.job.clone());
            numbers.push(*number);
        }
        // One alone is no group: it keeps its place.
        if numbers.len() < 2 {
            return None;
        }
        let members = numbers
            .into_iter()
            .filter_map(|number| Some((number, self.leave(number)?)))
            .collect();
        Some(Taken { message, members })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn job(more: &serde_json::Value) -> Job {
        let mut job = json!({"type": "send", "id": "1", "to": "bob", "coalesce": true, "message": {"text": "hi"}});
        for (name, value) in more.as_object().unwrap() {
            job[name] = value.clone();
        }
        Job::decode(job.to_string().as_bytes(), None).unwrap()
    }

    fn account(name: &str) -> AccountId {
        AccountId::parse(name).unwrap()
    }

    fn content(text: &str) -> Content {
        Content::of(&job(&json!({"message": {"text": text}})), &account("admin")).unwrap()
    }

    fn join(line: &mut Line<()>, content: Content, job: &str, to: &str) -> u64 {
        let waiting = Waiting {
            job: JobId::parse(job).unwrap(),
            to: account(to),
            seat: (),
        };
        line.join(content, &Message::from_text("hi"), waiting)
    }

    fn names(taken: Option<Taken<()>>) -> Vec<String> {
        let members = taken.into_iter().flat_map(|taken| taken.members);
        members.map(|(_, waiting)| waiting.job.to_string()).collect()
    }

    #[test]
    fn only_a_send_that_asks_for_it_and_that_a_batch_can_carry_is_merged() {
        let of = |more: &serde_json::Value| Content::of(&job(more), &account("admin"));
        assert!(of(&json!({})).is_some());
        assert!(of(&json!({"coalesce": false})).is_none());
        assert!(of(&json!({"message": {"text": "hi", "forbid_callbacks": ["before"]}})).is_none());
        assert!(of(&json!({"message": {"text": "hi", "random": 7}})).is_none());
        assert!(of(&json!({"message": {"text": "hi", "life_time": 0, "seq": 3, "control": ["NoUnread"]}})).is_some());
    }

    #[test]
    fn the_same_content_is_one_whatever_its_spelling_its_recipient_and_its_envelope() {
        let of = |more: &serde_json::Value, from: &str| Content::of(&job(more), &account(from));
        let text = of(&json!({}), "admin");
        let body = json!([{"MsgType": "TIMTextElem", "MsgContent": {"Text": "hi"}}]);
        assert_eq!(
            text,
            of(&json!({"to": "carol", "id": "2", "message": {"body": body}}), "admin")
        );
        assert_ne!(text, of(&json!({}), "robot"));
        assert_ne!(text, of(&json!({"message": {"text": "hi!"}}), "admin"));
        let window = json!({"start": "09:00", "end": "21:00", "timezone": "UTC"});
        assert_ne!(text, of(&json!({"send_window": window}), "admin"));
        assert_ne!(text, of(&json!({"message": {"text": "hi", "seq": 1}}), "admin"));
        assert_ne!(
            text,
            of(&json!({"message": {"text": "hi", "custom_data": "x"}}), "admin")
        );
    }

    #[test]
    fn one_alone_is_no_group_and_the_largest_goes_first() {
        let mut line = Line::default();
        join(&mut line, content("a"), "a1", "u1");
        join(&mut line, content("b"), "b1", "u1");
        assert_eq!((line.len(), line.mergeable()), (2, 0));
        assert!(line.largest().is_none());
        assert!(line.take(&content("a"), 500).is_none());
        join(&mut line, content("b"), "b2", "u2");
        join(&mut line, content("a"), "a2", "u2");
        assert_eq!(line.largest().unwrap(), (content("a"), 2), "of equal ones the older");
        join(&mut line, content("b"), "b3", "u3");
        assert_eq!(line.largest().unwrap(), (content("b"), 3));
        assert_eq!(line.mergeable(), 5);
        assert_eq!(names(line.take(&content("b"), 2)), ["b1", "b2"]);
        assert_eq!((line.len(), line.mergeable()), (3, 2));
        assert_eq!(line.take_first().unwrap().job.as_str(), "a1");
        assert_eq!(line.mergeable(), 0);
    }

    #[test]
    fn a_recipient_or_a_job_is_never_twice_in_a_call() {
        let mut line = Line::default();
        for (job, to) in [("1", "u1"), ("2", "u1"), ("3", "u2"), ("3", "u3"), ("4", "u4")] {
            join(&mut line, content("a"), job, to);
        }
        assert_eq!(names(line.take(&content("a"), 500)), ["1", "3", "4"]);
        assert_eq!(names(line.take(&content("a"), 500)), ["2", "3"]);
        for job in ["5", "6"] {
            join(&mut line, content("a"), job, "u1");
        }
        assert!(line.largest().is_none(), "to one recipient only");
        line.take_first();
        line.take_first();
        assert_eq!(line.len(), 0);
        assert_eq!(line.mergeable(), 0);
    }

    #[test]
    fn a_call_has_at_most_500_members_and_those_who_left_are_not_among_them() {
        let mut line = Line::default();
        let numbers: Vec<u64> = (0..1_200)
            .map(|n| join(&mut line, content("a"), &format!("j{n}"), &format!("u{n}")))
            .collect();
        assert!(line.leave(numbers[0]).is_some());
        assert!(line.leave(numbers[0]).is_none());
        assert_eq!(line.largest().unwrap().1, 500);
        let taken = names(line.take(&content("a"), 10_000));
        assert_eq!((taken.len(), taken[0].as_str()), (500, "j1"));
        assert_eq!(line.mergeable(), 699);
    }

    #[test]
    fn a_fault_of_the_content_is_shared_and_one_of_an_account_or_of_the_groups_size_is_not() {
        assert!(is_shared_fault(ErrorCode(90_001)));
        for code in [
            90_012, 90_048, 20_003, 70_107, 90_008, 90_011, 90_055, 93_000, 80_001, 20_006, 90_009,
        ] {
            assert!(!is_shared_fault(ErrorCode(code)), "{code}");
        }
    }
}
