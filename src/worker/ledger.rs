//! The fleet's budget, kept in Postgres: the budget knows no SQL, and the records know no budget.

use std::time::Duration;

use async_trait::async_trait;

use crate::{
    budget::{BudgetKey, LedgerAsk, LedgerError, LedgerReply, LedgerSlot, SlotLedger},
    store::{BudgetRow, SlotsWanted, Store},
};

/// The rows of the budget.
pub(crate) struct StoreLedger(pub(crate) Store);

fn row(key: &BudgetKey) -> BudgetRow<'_> {
    BudgetRow {
        host: &key.host,
        sdk_app_id: key.sdk_app_id,
        command: key.command,
    }
}

#[async_trait]
impl SlotLedger for StoreLedger {
    async fn reserve(&self, key: &BudgetKey, ask: LedgerAsk) -> Result<LedgerReply, LedgerError> {
        let wanted = SlotsWanted {
            calls_per_second: ask.limits.calls_per_second,
            recipients_per_minute: ask.limits.recipients_per_minute,
            valid: i64::try_from(ask.valid.as_micros())?,
            want: ask.want,
            urgent: ask.urgent,
            weight: ask.weight,
            alone: ask.alone,
            back: ask.back.iter().map(|slot| (slot.from, slot.until)).collect(),
            forfeited: ask.forfeited,
            fewer: ask.fewer,
            answered: ask.answered,
            ended: ask.ended,
        };
        let granted = self.0.reserve_slots(row(key), &wanted).await?;
        Ok(LedgerReply {
            now: granted.now,
            slots: granted
                .slots
                .into_iter()
                .map(|(from, until)| LedgerSlot { from, until })
                .collect(),
            unit: granted.unit,
            asked: granted.asked,
            paused_until: granted.paused_until,
            wait: granted.wait,
            share: granted.share,
        })
    }

    async fn throttle(&self, key: &BudgetKey, app_wide: bool, pause: Duration) -> Result<(), LedgerError> {
        Ok(self.0.throttle_slots(row(key), app_wide, pause).await?)
    }
}
