//! The budget that all workers share: one row per host, app and command, from which slots are reserved ahead.
//!
//! What is granted is decided by `reserve_slots` of the migration, in one statement: see there.

use std::time::Duration;

use super::{Store, StoreError};
use crate::domain::{Command, SdkAppId};

/// Names a row.
#[derive(Debug, Clone, Copy)]
pub struct BudgetRow<'a> {
    /// The IM REST host.
    pub host: &'a str,
    /// The app.
    pub sdk_app_id: SdkAppId,
    /// The command.
    pub command: Command,
}

/// What a worker gives back and wants. Times are microseconds on the database's clock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlotsWanted {
    /// Calls a second; 0: no limit.
    pub calls_per_second: u32,
    /// Recipients a minute; 0: no limit.
    pub recipients_per_minute: u32,
    /// How long a slot may be used after it began, in microseconds.
    pub valid: i64,
    /// How many slots.
    pub want: u32,
    /// How many of them for urgent work.
    pub urgent: u32,
    /// Recipients of each call; 0 where they don't count.
    pub weight: u32,
    /// No other worker seems to ask for this row.
    pub alone: bool,
    /// Begin and end of slots that somebody else may still use.
    pub back: Vec<(i64, i64)>,
    /// The ends of slots that nobody used, nor can.
    pub forfeited: Vec<i64>,
    /// Recipients that aren't called, by the end of their slot.
    pub fewer: Vec<(i64, u32)>,
    /// Slots count until their calls are answered: `valid` is how long that takes at most.
    pub answered: bool,
    /// In that mode: which slots' calls were answered, by the end of the slot, and when.
    pub ended: Vec<(i64, i64)>,
}

/// What was granted. Times are microseconds on the database's clock.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SlotsGranted {
    /// The clock, read after the row was locked.
    pub now: i64,
    /// Begin and end of each slot.
    pub slots: Vec<(i64, i64)>,
    /// Calls that each slot is good for.
    pub unit: u32,
    /// How often slots of this row were asked for.
    pub asked: i64,
    /// No slot before.
    pub paused_until: i64,
    /// No further slot can be granted sooner.
    pub wait: Duration,
    /// The share of the limits in force.
    pub share: f64,
}

fn integer(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

impl Store {
    /// Gives slots back and reserves others. For urgent work it takes a connection that nothing else holds for long.
    pub async fn reserve_slots(&self, row: BudgetRow<'_>, wanted: &SlotsWanted) -> Result<SlotsGranted, StoreError> {
        self.reserve_slots_at(row, wanted, None).await
    }

    /// The same at a time of the test's own.
    pub(super) async fn reserve_slots_at(
        &self,
        row: BudgetRow<'_>,
        wanted: &SlotsWanted,
        now: Option<i64>,
    ) -> Result<SlotsGranted, StoreError> {
        let (back_from, back_until): (Vec<i64>, Vec<i64>) = wanted.back.iter().copied().unzip();
        let (fewer_until, fewer): (Vec<i64>, Vec<i32>) =
            wanted.fewer.iter().map(|&(until, by)| (until, integer(by))).unzip();
        let (ended_until, ended): (Vec<i64>, Vec<i64>) = wanted.ended.iter().copied().unzip();
        let granted = sqlx::query!(
            r#"SELECT now_us AS "now!", granted_from AS "from!", granted_until AS "until!", unit AS "unit!",
                      asked AS "asked!", paused_until AS "paused_until!", wait AS "wait!", share AS "share!"
                 FROM reserve_slots($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16,
                                    $17, $18, $19)"#,
            row.host,
            row.sdk_app_id.0 as i64,
            row.command.index() as i16,
            integer(wanted.calls_per_second),
            integer(wanted.recipients_per_minute),
            wanted.valid,
            integer(wanted.want),
            integer(wanted.urgent),
            integer(wanted.weight),
            wanted.alone,
            &back_from,
            &back_until,
            &wanted.forfeited,
            &fewer_until,
            &fewer,
            wanted.answered,
            &ended_until,
            &ended,
            now
        )
        .fetch_one(&self.slots)
        .await
        .map_err(|error| StoreError::query("reserve slots of the fleet's budget", error))?;
        Ok(SlotsGranted {
            now: granted.now,
            slots: granted.from.into_iter().zip(granted.until).collect(),
            unit: u32::try_from(granted.unit).unwrap_or(1),
            asked: granted.asked,
            paused_until: granted.paused_until,
            wait: Duration::from_micros(u64::try_from(granted.wait).unwrap_or(0)),
            share: granted.share,
        })
    }

    /// A throttled answer: stops a row, or every row of its app, for `pause`, and may halve its rate.
    pub async fn throttle_slots(&self, row: BudgetRow<'_>, app_wide: bool, pause: Duration) -> Result<(), StoreError> {
        sqlx::query!(
            r#"SELECT throttle_slots($1, $2, $3, $4, $5)::text AS "done""#,
            row.host,
            row.sdk_app_id.0 as i64,
            row.command.index() as i16,
            app_wide,
            i64::try_from(pause.as_micros()).unwrap_or(i64::MAX)
        )
        .fetch_one(&self.slots)
        .await
        .map_err(|error| StoreError::query("stop the fleet's budget", error))?;
        Ok(())
    }
}
