//! What does a process use? CPU seconds and memory from /proc, for processes of ours and for groups of them.

use std::fs;

/// Clock ticks a second in /proc: `USER_HZ`, 100 on every Linux that Rust supports. What is counted is exact: the kernel
/// scales the ticks by the scheduler's own nanoseconds.
const TICKS: f64 = 100.0;

/// The fields of a process's `stat` from the state (field 3) on.
fn stat(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may have blanks: fields are counted from its closing parenthesis.
    Some(stat.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

fn field(stat: &[String], index: usize) -> f64 {
    stat.get(index).and_then(|text| text.parse().ok()).unwrap_or(0.0)
}

/// CPU seconds of a process, user and system; of one that has ended, too, until it is reaped.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    // utime and stime are fields 14 and 15.
    stat(pid).map_or(0.0, |stat| (field(&stat, 11) + field(&stat, 12)) / TICKS)
}

/// CPU seconds of a process and of those whose parent or group leader it is, and of its children that ended.
pub(crate) fn cpu_seconds_of_family(leader: u32) -> f64 {
    let Ok(entries) = fs::read_dir("/proc") else { return 0.0 };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter_map(|pid| Some((pid, stat(pid)?)))
        .filter(|(pid, stat)| {
            let is = |index: usize| field(stat, index) as u32 == leader;
            // ppid is field 4, pgrp 5.
            *pid == leader || is(1) || is(2)
        })
        .map(|(pid, stat)| {
            let own = field(&stat, 11) + field(&stat, 12);
            let ended = if pid == leader {
                field(&stat, 13) + field(&stat, 14)
            } else {
                0.0
            };
            (own + ended) / TICKS
        })
        .sum()
}

/// The parent of a process.
pub(crate) fn parent(pid: u32) -> Option<u32> {
    Some(field(&stat(pid)?, 1) as u32)
}

/// Whether a process has ended, reaped or not.
pub(crate) fn has_ended(pid: u32) -> bool {
    stat(pid).is_none_or(|stat| stat.first().is_none_or(|state| state == "Z"))
}

fn status_kib(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// The most memory that a process had resident, in KiB.
pub(crate) fn peak_rss_kib(pid: u32) -> u64 {
    status_kib(pid, "VmHWM:")
}

/// The memory that a process has resident, in KiB.
pub(crate) fn rss_kib(pid: u32) -> u64 {
    status_kib(pid, "VmRSS:")
}
