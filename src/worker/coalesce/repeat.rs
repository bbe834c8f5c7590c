//! A shared call that nobody of its members has got, by two looks at the history each: made again as it was, byte for byte,
//! while the service still drops a repeat.
//!
//! Every member is reconciled alone, and whoever comes to its second look last finds all the others waiting. Where one of
//! them was found, was revoked or is over, nothing is repeated: the rest go alone once the history would list them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream};
use uuid::Uuid;

use super::group::answers;
use crate::{
    domain::{AccountId, Command, Lane},
    im::{ENCODER_VERSION, Pair, encode_batch},
    store::{AbsentCall, CALL_WINDOW, WorkUnit},
    worker::{
        app::App,
        context::{Context, Errand, Halt},
        due::{LEASE, load},
        fault, single_due,
    },
};

/// Outcomes of members that are written side by side.
const AT_ONCE: usize = 4;

/// Makes the call of a member again, if it is the last one that was missing. `within`: since the first call, in which the
/// service still drops a repeat.
pub(in crate::worker) async fn repeat(
    ctx: &Arc<Context>,
    unit: &WorkUnit,
    app: &App,
    within: Duration,
) -> Result<(), Halt> {
    let absent = AbsentCall {
        encoder: ENCODER_VERSION,
        within,
        looked_until: ctx.timing.listed(),
    };
    // What is outside of its send window by now goes out later, like anything that is missing.
    let Some(loaded) = load(ctx, unit).await? else {
        return Ok(());
    };
    if ctx.closed_window(&loaded.job, unit.lane).is_some() {
        return Ok(());
    }
    let Some(members) = ctx.persist(|| ctx.store.absent_members(unit, absent)).await? else {
        return Ok(());
    };
    let errand = Errand {
        app,
        command: Command::BatchSendMsg,
        lane: unit.lane,
        group: unit.group.as_ref(),
        recipients: members,
    };
    let _permit = ctx.permit(unit.lane).await?;
    let Some(slot) = ctx.slot(errand).await else {
        return Ok(());
    };
    let token = Uuid::new_v4();
    let deadline = Instant::now() + CALL_WINDOW;
    let high = unit.lane == Lane::High;
    let claim = ctx
        .persist(|| ctx.store.claim_repeat(high, unit, absent, token, LEASE))
        .await?;
    let Some(call) = claim else { return Ok(()) };
    let Some(message) = loaded.job.message() else {
        return Ok(());
    };
    let to: Vec<AccountId> = call.members.iter().map(|member| member.to.clone()).collect();
    let pair = Pair {
        seq: call.pair.seq,
        random: call.pair.random,
    };
    let body = encode_batch(Some(&call.from), &to, message, pair);
    tracing::info!(call = %call.call_id, members = to.len(),
                   "the history shows a shared call to none of its recipients: it is made again");
    fault::point("group.repeat.before").await;
    let result = ctx
        .call(errand, slot, deadline, || app.client.batch_send(body, Some(deadline)))
        .await;
    fault::point("group.repeat.after").await;
    let answers = answers(&to, result);
    let outcomes = stream::iter(call.members.into_iter().zip(answers))
        .map(|(member, answer)| async move { single_due::settle_shared(ctx, &member, token, answer).await })
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<_>>()
        .await;
    outcomes.into_iter().collect()
}
