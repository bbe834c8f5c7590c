//! What is printed: the settings, what happens, the figures, and for each thing that is wrong whatever helps to find
//! its cause.

use std::{path::Path, sync::OnceLock, time::Duration};

use anyhow::Context;
use im_dispatcher::simulator::Report;
use serde_json::json;

use crate::{
    Arguments,
    check::{Anomaly, Fault, Verdict},
    disaster::Done,
    settle::Settled,
};

/// So many of each kind of anomaly are printed whole.
const SHOWN: usize = 5;
/// So many lines of the workers' logs are printed for each.
const LINES: usize = 12;

/// Says something on stderr, with the time since the start.
pub(crate) fn say(text: &str) {
    static BEGAN: OnceLock<std::time::Instant> = OnceLock::new();
    let since = BEGAN.get_or_init(std::time::Instant::now).elapsed();
    #[expect(clippy::print_stderr, reason = "it is a program for people to watch")]
    {
        eprintln!("{:7.1} s  {text}", since.as_secs_f64());
    }
}

pub(crate) fn line(text: &str) {
    #[expect(clippy::print_stdout, reason = "the figures are what the program is for")]
    {
        println!("{text}");
    }
}

/// How this run differs from production.
pub(crate) fn print_settings(arguments: &Arguments, settings: &[(&str, &str)], roam_lag: Duration) {
    line(&format!(
        "seed {}, {} workers, {} minutes of chaos, {} jobs a second",
        arguments.seed, arguments.workers, arguments.minutes, arguments.rate,
    ));
    line(&format!(
        "IM_DISPATCHER__RECONCILE__LISTED_AFTER={}",
        arguments.listed_after
    ));
    for (name, value) in settings {
        line(&format!("{name}={value}"));
    }
    line(&format!(
        "the service: no de-duplication, 200 calls a second, listed after {roam_lag:?}, faults on every command"
    ));
}

/// Prints the figures; true if nothing is wrong.
pub(crate) fn print(
    arguments: &Arguments,
    done: &Done,
    settled: &Settled,
    verdict: &Verdict,
    service: &Report,
    logs: &Path,
) -> anyhow::Result<bool> {
    for fault in Fault::ALL {
        let found: Vec<&Anomaly> = verdict.anomalies.iter().filter(|a| a.fault == fault).collect();
        for anomaly in found.iter().take(SHOWN) {
            line(&format!(
                "\n{}: {} {}",
                fault.as_str().to_uppercase(),
                anomaly.job,
                anomaly.evidence
            ));
            for found in log_lines(logs, &anomaly.job)? {
                line(&format!("  | {found}"));
            }
        }
        if found.len() > SHOWN {
            line(&format!("… and {} more", found.len() - SHOWN));
        }
    }
    line("");
    line(&format!("disasters: {done}"));
    line(&format!(
        "published: {} with {} ids; events: {}, {} different; messages at the service: {}, calls {} ({} throttled)",
        verdict.published.0,
        verdict.published.1,
        verdict.events.0,
        verdict.events.1,
        verdict.delivered,
        service.calls,
        service.throttled,
    ));
    let fired: Vec<String> = service
        .faults
        .iter()
        .map(|f| format!("{} ×{}", f.rule, f.fired))
        .collect();
    if !fired.is_empty() {
        line(&format!("faults: {}", fired.join(", ")));
    }
    line(&format!(
        "revocations: {}; reconciled: {:?}",
        verdict.revocations, verdict.reconciled
    ));
    line(&format!("jobs by outcome: {:?}", verdict.jobs));
    line(&format!("recipients by state: {:?}", verdict.recipients));
    line(&format!("dead letters by word: {:?}", verdict.letters));
    line(&format!(
        "settled {:.0} s after the last disaster",
        settled.after.as_secs_f64()
    ));
    let mut sound = settled.open.is_empty() && done.deaths == 0 && settled.is_in_time;
    line(&format!("{:<44}{:>6}", "not settled", settled.open.len()));
    for (what, count) in &settled.open {
        line(&format!("  {what}: {count}"));
    }
    line(&format!("{:<44}{:>6}", "workers that ended by themselves", done.deaths));
    for fault in Fault::ALL {
        let count = verdict.count(fault);
        sound &= count == 0;
        line(&format!("{:<44}{count:>6}", fault.as_str()));
    }
    line(if sound {
        "nothing is wrong"
    } else {
        "SOMETHING IS WRONG, see above"
    });
    if let Some(path) = &arguments.json {
        let wrong: serde_json::Map<String, serde_json::Value> = Fault::ALL
            .into_iter()
            .map(|fault| (fault.as_str().to_owned(), verdict.count(fault).into()))
            .collect();
        let figures = json!({
            "acceptance": arguments.acceptance, "scale": arguments.scale,
            "faults_everywhere": arguments.faults_everywhere, "cluster": arguments.cluster, "seed": arguments.seed, "workers": arguments.workers, "minutes": arguments.minutes, "rate": arguments.rate,
            "listed_after": arguments.listed_after.to_string(), "disasters": done,
            "published": verdict.published.0, "ids": verdict.published.1,
            "events": verdict.events.0, "distinct_events": verdict.events.1,
            "messages": verdict.delivered, "calls": service.calls, "throttled": service.throttled,
            "revocations": verdict.revocations, "reconciled": verdict.reconciled, "jobs": verdict.jobs,
            "recipients": verdict.recipients, "dead_letters": verdict.letters,
            "settled_after_seconds": settled.after.as_secs_f64(),
            "not_settled": settled.open.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
            "wrong": wrong, "sound": sound,
        });
        let text = serde_json::to_string_pretty(&figures)?;
        std::fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))?;
    }
    Ok(sound)
}

/// What the workers' logs say of a job.
fn log_lines(logs: &Path, job: &str) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    let mut files: Vec<_> = std::fs::read_dir(logs)?.collect::<Result<_, _>>()?;
    files.sort_by_key(std::fs::DirEntry::file_name);
    for file in files {
        let name = file.file_name();
        let text = String::from_utf8_lossy(&std::fs::read(file.path())?).into_owned();
        let lines = text.lines().filter(|line| line.contains(job));
        found.extend(lines.map(|line| format!("{}: {line}", name.to_string_lossy())));
    }
    found.truncate(LINES);
    Ok(found)
}
