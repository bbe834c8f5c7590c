//! What is done by the command line is noted in the audit log, as what is done by HTTP is: before it and after it.

use std::{fmt, fs, os::unix::fs::MetadataExt as _};

use super::output::note;
use crate::store::{NewAudit, Store, StoreError};

/// Does something, noted; `told` makes the sentence of its success. What can't be noted is not done.
pub(super) async fn act<T, E>(
    store: &Store,
    action: &str,
    target: &str,
    deed: impl Future<Output = Result<T, E>>,
    told: impl FnOnce(&T) -> String,
) -> anyhow::Result<T>
where
    E: fmt::Display + Into<anyhow::Error>,
{
    let act = Act::begin(store, action, target).await?;
    let result = deed.await;
    act.end(result.as_ref().map(told)).await;
    result.map_err(Into::into)
}

/// The same of what is done without the database, too: then it is said that it isn't in the log.
pub(super) async fn act_even_unnoted<T, E: fmt::Display>(
    store: Option<&Store>,
    action: &str,
    target: &str,
    deed: impl Future<Output = Result<T, E>>,
    told: impl FnOnce(&T) -> String,
) -> Result<T, E> {
    let act = match store {
        Some(store) => Act::begin(store, action, target)
            .await
            .inspect_err(|error| note(format_args!("note: this isn't in the audit log: {error}")))
            .ok(),
        None => None,
    };
    let result = deed.await;
    if let Some(act) = act {
        act.end(result.as_ref().map(told)).await;
    }
    result
}

/// An act that is under way.
struct Act<'a> {
    store: &'a Store,
    id: i64,
}

impl<'a> Act<'a> {
    /// Notes that something is about to be done. What can't be noted must not be done.
    async fn begin(store: &'a Store, action: &str, target: &str) -> Result<Self, StoreError> {
        let (user, host) = (user(), host());
        let id = store
            .audit_begin(NewAudit {
                role: "operator",
                actor: Some(&user),
                via: "command-line",
                address: host.as_deref(),
                action,
                target,
            })
            .await?;
        Ok(Self { store, id })
    }

    /// Notes how it ended. If that fails the row stays without a result: what was done was done.
    async fn end<E: fmt::Display>(self, result: Result<String, &E>) {
        let noted = match result {
            Ok(detail) => self.store.audit_end(self.id, true, &detail).await,
            Err(error) => self.store.audit_end(self.id, false, &error.to_string()).await,
        };
        if let Err(error) = noted {
            tracing::warn!(%error, entry = self.id, "the audit log could not be completed");
        }
    }
}

/// The name of the user that this process runs as, by the kernel and /etc/passwd; `uid N` where that doesn't have it.
fn user() -> String {
    let Ok(own) = fs::metadata("/proc/self") else {
        return "unknown".to_owned();
    };
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    name_of(own.uid(), &users).unwrap_or_else(|| format!("uid {}", own.uid()))
}

fn name_of(uid: u32, users: &str) -> Option<String> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

fn host() -> Option<String> {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let host = host.trim();
    (!host.is_empty()).then(|| host.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_named_by_its_number() {
        let users =
            "root:x:0:0:root:/root:/bin/bash\n# nothing\n:x:7:7::/:\nim:x:997:997::/var/lib/im:/usr/sbin/nologin\n";
        assert_eq!(name_of(997, users).as_deref(), Some("im"));
        assert_eq!(name_of(7, users), None);
        assert_eq!(name_of(1_000, users), None);
        assert!(!user().is_empty());
    }
}
