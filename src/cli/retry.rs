//! `retry`: failed recipients again, as a further generation of their jobs.
//!
//! Counts first. Each job is tried again only in the generation that was counted, so that two retries at a time, or one
//! that was cut off and is repeated, try each failure again once.

use std::process::ExitCode;

use serde_json::json;

use crate::{
    config::Settings,
    domain::{GroupName, JobId},
    store::{RetryFilter, Retryable, Store},
};

use super::{
    act::act,
    context::store,
    output::{agreed, json as print_json, line, note, progress, usage},
};

/// Flags of `retry`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("subject").required(true).args(["job", "group"]))]
pub(super) struct Args {
    /// The failed recipients of a job
    #[arg(long, value_name = "JOB")]
    job: Option<String>,
    /// Those of every job of a group
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// Only those that failed with this code, such as im-90012 or retries-exhausted; outcome-unknown also takes those that
    /// nobody can tell were sent, at the risk of a second message
    #[arg(long, value_name = "CODE")]
    code: Option<String>,
    /// Count, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Don't ask
    #[arg(long, short)]
    yes: bool,
    /// One object, for machines
    #[arg(long)]
    json: bool,
}

/// Whose failed recipients.
enum Subject {
    Job(JobId),
    Group(GroupName),
}

impl Subject {
    /// For the audit log.
    fn named(&self, code: Option<&str>) -> String {
        let whose = match self {
            Self::Job(id) => format!("job {id}"),
            Self::Group(group) => format!("group {group}"),
        };
        code.map_or(whose.clone(), |code| format!("{whose} with {code}"))
    }
}

/// What was counted, and what became of it.
#[derive(Default)]
struct Count {
    /// Jobs that are on record.
    known: u64,
    /// Jobs with something to try again.
    jobs: u64,
    /// Recipients to try again.
    recipients: u64,
    /// Recipients whose job's content isn't on record.
    without_body: u64,
    /// Recipients that are being tried again.
    retried: u64,
}

pub(super) async fn run(settings: &Settings, args: &Args) -> anyhow::Result<ExitCode> {
    let subject = match (&args.job, &args.group) {
        (Some(job), _) => Subject::Job(JobId::parse(job).map_err(|error| usage(format!("--job {error}")))?),
        (None, Some(group)) => {
            Subject::Group(GroupName::parse(group).map_err(|error| usage(format!("--group {error}")))?)
        }
        (None, None) => return Err(usage("name a job by --job, or a group by --group").into()),
    };
    let code = args.code.as_deref().map(word);
    let store = store(settings)?;
    let done = run_on(&store, &subject, code.as_deref(), args).await;
    store.close().await;
    done
}

/// A code as the records spell it: the service's bare number is one, too.
fn word(code: &str) -> String {
    if !code.is_empty() && code.bytes().all(|byte| byte.is_ascii_digit()) {
        format!("im-{code}")
    } else {
        code.to_owned()
    }
}

async fn run_on(store: &Store, subject: &Subject, code: Option<&str>, args: &Args) -> anyhow::Result<ExitCode> {
    let mut count = Count::default();
    let mut pages = Pages::new(subject);
    while let Some(page) = pages.next(store, code).await? {
        for job in page {
            count.known += 1;
            if job.has_body {
                count.jobs += u64::from(job.failed > 0);
                count.recipients += job.failed;
            } else {
                count.without_body += job.failed;
            }
        }
    }
    if count.known == 0 {
        note(match subject {
            Subject::Job(id) => {
                format!("error: no job {id} is on record; `im-dispatcher dead-letters replay` tries a letter again")
            }
            Subject::Group(group) => format!("error: no job of group {group} is on record"),
        });
        return Ok(ExitCode::FAILURE);
    }
    if !args.json {
        let of_code = code.map(|code| format!(" with {code}")).unwrap_or_default();
        let (recipients, jobs) = (count.recipients, count.jobs);
        line(format_args!("{recipients} failed recipients{of_code} in {jobs} jobs"))?;
    }
    let question = format!("Try {} recipients again?", count.recipients);
    if count.recipients > 0 && !args.dry_run {
        if !agreed(args.yes, &question)? {
            note("nothing was changed");
            return Ok(ExitCode::FAILURE);
        }
        let deed = retry_all(store, subject, code, count.recipients);
        let told = |retried: &u64| format!("{retried} recipients");
        count.retried = act(store, "retry", &subject.named(code), deed, told).await?;
    }
    tell(&count, args)
}

async fn retry_all(store: &Store, subject: &Subject, code: Option<&str>, expected: u64) -> anyhow::Result<u64> {
    let bar = progress(Some(expected), "{bar:30} {pos}/{len} {elapsed}");
    let mut retried = 0;
    let mut pages = Pages::new(subject);
    while let Some(page) = pages.next(store, code).await? {
        for job in page.iter().filter(|job| job.failed > 0 && job.has_body) {
            let filter = RetryFilter {
                generation: Some(job.generation),
                code,
            };
            let opened = store.retry_failed(&job.id, filter, None).await?;
            retried += opened;
            bar.inc(opened);
        }
    }
    bar.finish_and_clear();
    Ok(retried)
}

fn tell(count: &Count, args: &Args) -> anyhow::Result<ExitCode> {
    if args.json {
        print_json(&json!({
            "jobs": count.jobs, "recipients": count.recipients, "retried": count.retried,
            "without_body": count.without_body, "dry_run": args.dry_run,
        }))?;
    } else if args.dry_run {
        note("nothing was changed (--dry-run)");
    } else if count.retried > 0 {
        line(format_args!("{} are tried again", count.retried))?;
    }
    if count.without_body > 0 {
        note(format_args!(
            "error: {} failed recipients can't be tried again: what the producer published is no longer on record",
            count.without_body
        ));
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// The subject's jobs, page by page.
struct Pages<'a> {
    subject: &'a Subject,
    after: Option<JobId>,
    ended: bool,
}

impl<'a> Pages<'a> {
    const fn new(subject: &'a Subject) -> Self {
        Self {
            subject,
            after: None,
            ended: false,
        }
    }

    async fn next(&mut self, store: &Store, code: Option<&str>) -> anyhow::Result<Option<Vec<Retryable>>> {
        if self.ended {
            return Ok(None);
        }
        let page = match self.subject {
            Subject::Job(id) => {
                self.ended = true;
                store.retryable_job(id, code).await?.into_iter().collect()
            }
            Subject::Group(group) => store.retryable_of_group(group, self.after.as_ref(), code).await?,
        };
        self.after = page.last().map(|job| job.id.clone());
        Ok((!page.is_empty()).then_some(page))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_number_is_a_code_of_the_service() {
        assert_eq!(word("90012"), "im-90012");
        assert_eq!(word("im-90012"), "im-90012");
        assert_eq!(word("retries-exhausted"), "retries-exhausted");
    }
}
