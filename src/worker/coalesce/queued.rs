//! A delivery's send that may be merged: its turn, then what a send does.

use std::{sync::Arc, time::Duration};

use super::{Claim, Content, GroupVerdict, Place, Turn};
use crate::{
    broker::Delivery,
    domain::job::Job,
    worker::{
        app::App,
        context::{Context, Halt},
        delivery::{Verdict, hand_over},
        existing::existing_job,
        single::{Decision, Single, alone, decided, new_claim, with_slot},
    },
};

/// Carries it out, alone or in company.
pub(in crate::worker) async fn deliver(
    ctx: &Arc<Context>,
    delivery: &Delivery,
    job: &Job,
    app: &App,
    single: Single<'_>,
    content: Content,
) -> Result<Verdict, Halt> {
    let claim = Claim::Delivery(Box::new(new_claim(delivery, job, &single)));
    let place = Place {
        app,
        lane: delivery.lane,
        group: job.group.as_ref(),
        content,
        message: single.message,
        window: job.send_window,
        job: &job.id,
        to: single.to,
    };
    match super::turn(ctx, place, claim).await {
        Turn::Alone { permit, slot } => with_slot(ctx, delivery, job, app, single, permit, slot).await,
        Turn::Shared {
            verdict: GroupVerdict::Delivery(verdict),
            token,
            answer,
        } => match decided(ctx, delivery, job, app, single, verdict, token).await? {
            Decision::Call(claimed) => claimed.shared(answer.await.ok()).await,
            Decision::Existing(single, existing) => existing_job(ctx, delivery, job, &single, *existing).await,
            Decision::Done(verdict) => Ok(verdict),
        },
        Turn::Again | Turn::Shared { .. } => alone(ctx, delivery, job, app, single).await,
        Turn::Later(wait) => hand_over(ctx, delivery, job, wait).await,
        Turn::GivenUp => hand_over(ctx, delivery, job, Duration::ZERO).await,
        Turn::Stopping => Ok(Verdict::Leave),
    }
}
