//! Publishes what the table's work left in the outbox, and deletes what the broker has confirmed. Whoever dies in
//! between leaves rows that another worker publishes again, under the same ids.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, stream};

use super::{context::Context, delivery::letter_id};
use crate::{
    broker::{Letter, Properties},
    store::{OutboxItem, OutboxRow},
};

/// Rows of one turn.
const BATCH: u32 = 500;
/// Publishes under way at once: one confirm window.
const AT_ONCE: usize = 64;
/// How often the outbox is looked at when nothing says that something is in it: other workers' rows.
const POLL: Duration = Duration::from_secs(1);

/// Publishes until the worker stops.
pub(super) async fn run(ctx: Arc<Context>) {
    loop {
        let woken = ctx.outbox.notified();
        let mut taken = 0;
        if !ctx.database_is_away() {
            match turn(&ctx).await {
                Ok(rows) => taken = rows,
                Err(error) => tracing::debug!(%error, "the outbox waits"),
            }
        }
        if ctx.stopping.is_cancelled() {
            return;
        }
        if taken == BATCH as usize {
            continue;
        }
        tokio::select! {
            () = ctx.stopping.cancelled() => return,
            () = woken => {}
            () = tokio::time::sleep(POLL) => {}
        }
    }
}

/// Publishes what is there now.
pub(super) async fn turn(ctx: &Arc<Context>) -> Result<usize, crate::store::StoreError> {
    let rows = ctx.store.take_outbox(BATCH).await?;
    let taken = rows.len();
    super::fault::point("outbox.publish.before").await;
    let confirmed: Vec<i64> = stream::iter(rows)
        .map(|row| publish(ctx, row))
        .buffer_unordered(AT_ONCE)
        .filter_map(|confirmed| async move { confirmed })
        .collect()
        .await;
    super::fault::point("outbox.publish.after").await;
    if !confirmed.is_empty() {
        ctx.store.drop_outbox(&confirmed).await?;
    }
    Ok(taken)
}

/// Publishes one row; its number if it was confirmed.
async fn publish(ctx: &Arc<Context>, row: OutboxRow) -> Option<i64> {
    let result = match row.item {
        OutboxItem::Event(event) => {
            let reply_to = event.reply_to.map(|queue| (queue, event.correlation_id));
            ctx.publisher
                .event(&event.routing_key, &event.event_id, event.body.into(), reply_to)
                .await
        }
        OutboxItem::Letter {
            letter,
            body,
            properties,
            queue,
        } => {
            let body = bytes::Bytes::from(body);
            ctx.publisher
                .dead_letter(Letter {
                    letter_id: letter_id(Some(letter.job.as_str()), &body, letter.generation),
                    body,
                    properties: Properties::from_bytes(&properties).unwrap_or_default(),
                    queue,
                    code: letter.code,
                    sentence: letter.message,
                    attempts: letter.attempts,
                    generation: letter.generation.max(0) as u32,
                })
                .await
        }
    };
    match result {
        Ok(()) => {
            ctx.metrics.events_published(1);
            Some(row.id)
        }
        Err(error) => {
            tracing::debug!(%error, "a row of the outbox could not be published: it is taken again");
            None
        }
    }
}
