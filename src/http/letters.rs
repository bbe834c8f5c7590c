//! The dead queue: look, count, replay, discard.
//!
//! One run at a time: two that take letters out of the queue would each see a part. A run goes on though its request ends,
//! and tells how far it is.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{ApiError, HttpState, auth::Access, body::JsonBody};
use crate::{
    broker::{BrokerError, DeadLetter, DeadLetterReport, DeadLetters, Selection},
    domain::Lane,
    explain::meaning,
};

/// Letters of a list, unless told otherwise and at most.
const PAGE: usize = 100;
const MAX_PAGE: usize = 1_000;
/// A run that takes longer is answered with how far it is; it goes on.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a list waits for a run to end.
const BUSY_PATIENCE: Duration = Duration::from_secs(3);
/// Failures that are shown.
const MAX_FAILED: usize = 20;

/// The dead queue, and the run over it.
#[derive(Clone, Default)]
pub struct Letters {
    queue: Option<DeadLetters>,
    busy: Arc<tokio::sync::Mutex<()>>,
    run: Arc<Mutex<Option<RunShown>>>,
}

impl std::fmt::Debug for Letters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Letters")
            .field("run", &self.run)
            .finish_non_exhaustive()
    }
}

impl Letters {
    /// Those of a broker's namespace.
    pub fn of(queue: DeadLetters) -> Self {
        Self {
            queue: Some(queue),
            ..Self::default()
        }
    }

    fn queue(&self) -> Result<&DeadLetters, ApiError> {
        self.queue.as_ref().ok_or(ApiError::Unavailable("RabbitMQ"))
    }
}

/// How far a run is.
#[derive(Debug, Clone, Default, Serialize)]
struct RunShown {
    action: &'static str,
    selection: String,
    dry_run: bool,
    running: bool,
    /// Letters looked at.
    seen: u64,
    /// Letters that are meant.
    matched: u64,
    /// Letters that were replayed or discarded.
    done: u64,
    /// Letters that are still there, with the reason.
    failed: Vec<FailedLetter>,
    /// Failures in all.
    failures: usize,
    /// Why it ended early.
    error: Option<String>,
}

/// A letter that is still there.
#[derive(Debug, Clone, Serialize)]
struct FailedLetter {
    letter: String,
    why: String,
}

impl RunShown {
    fn note(&mut self, report: &DeadLetterReport) {
        (self.seen, self.matched, self.done) = (report.seen, report.matched, report.done);
        self.failures = report.failed.len();
        let failed = report.failed.iter().take(MAX_FAILED);
        self.failed = failed
            .map(|(letter, why)| FailedLetter {
                letter: letter.clone(),
                why: why.clone(),
            })
            .collect();
    }
}

/// Which letters, and what with them. One of the first four.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Order {
    #[serde(default)]
    all: bool,
    job: Option<String>,
    letter: Option<String>,
    code: Option<String>,
    /// Into this lane instead of the queues that they came from.
    lane: Option<String>,
    /// Only count.
    #[serde(default)]
    dry_run: bool,
}

impl Order {
    fn selection(&self) -> Result<Selection, ApiError> {
        match (self.all, &self.job, &self.letter, &self.code) {
            (true, None, None, None) => Ok(Selection::All),
            (false, Some(job), None, None) => Ok(Selection::Job(job.clone())),
            (false, None, Some(name), None) => Ok(Selection::Letter(name.clone())),
            (false, None, None, Some(code)) => Ok(Selection::Code(code.clone())),
            _ => Err(ApiError::Invalid(
                "which letters: exactly one of all (true), job, letter and code".into(),
            )),
        }
    }

    fn lane(&self) -> Result<Option<Lane>, ApiError> {
        let Some(name) = &self.lane else { return Ok(None) };
        let lane = Lane::ALL.into_iter().find(|lane| lane.as_str() == name);
        lane.map(Some)
            .ok_or_else(|| ApiError::Invalid(format!("lane: there is no lane {name:?}")))
    }
}

/// What a run does.
#[derive(Debug, Clone, Copy)]
enum Deed {
    Count,
    Replay(Option<Lane>),
    Discard,
}

/// `POST /api/dead-letters/{replay|discard}`: 200 with what was done, 202 while it goes on.
pub(super) async fn act(
    State(state): State<HttpState>,
    Extension(access): Extension<Access>,
    Path(action): Path<String>,
    JsonBody(order): JsonBody<Order>,
) -> Result<Response, ApiError> {
    let selection = order.selection()?;
    let shown = selection.to_string();
    let lane = order.lane()?;
    let (action, deed) = match action.as_str() {
        "replay" => ("replay", Deed::Replay(lane)),
        "discard" if lane.is_none() => ("discard", Deed::Discard),
        "discard" => return Err(ApiError::Invalid("lane: a discarded letter goes nowhere".into())),
        _ => return Err(ApiError::NotFound("there is nothing at this path".into())),
    };
    let deed = if order.dry_run { Deed::Count } else { deed };
    let queue = state.letters.queue()?.clone();
    let Ok(place) = Arc::clone(&state.letters.busy).try_lock_owned() else {
        return Err(ApiError::Conflict("another run over the dead letters is under way"));
    };
    let run = Arc::clone(&state.letters.run);
    *run.lock() = Some(RunShown {
        action,
        selection: shown.clone(),
        dry_run: order.dry_run,
        running: true,
        ..RunShown::default()
    });
    let work = {
        let run = Arc::clone(&run);
        async move {
            let ended = carry_out(&queue, &selection, deed, &run).await;
            let mut shown = run.lock().clone().unwrap_or_default();
            shown.running = false;
            match &ended {
                Ok(report) => shown.note(report),
                Err(error) => shown.error = Some(error.to_string()),
            }
            *run.lock() = Some(shown.clone());
            drop(place);
            ended.map(|report| (report.told(), shown)).map_err(ApiError::from)
        }
    };
    let going = {
        let (store, fleet) = (state.store.clone(), state.fleet.clone());
        tokio::spawn(async move {
            let told = |(told, _): &(String, RunShown)| told.clone();
            let ended = match deed {
                Deed::Count => work.await,
                _ => access.act(&store, action, &shown, work, told).await,
            };
            fleet.refresh();
            ended.map(|(_, run)| run)
        })
    };
    match tokio::time::timeout(PATIENCE, going).await {
        Ok(Ok(ended)) => Ok(Json(ended?).into_response()),
        Ok(Err(_)) => {
            *run.lock() = None;
            Err(ApiError::Internal)
        }
        Err(_) => {
            let so_far = run.lock().clone();
            Ok((StatusCode::ACCEPTED, Json(so_far)).into_response())
        }
    }
}

async fn carry_out(
    queue: &DeadLetters,
    selection: &Selection,
    deed: Deed,
    run: &Mutex<Option<RunShown>>,
) -> Result<DeadLetterReport, BrokerError> {
    let progress = |report: &DeadLetterReport| {
        if let Some(shown) = &mut *run.lock() {
            shown.note(report);
        }
    };
    match deed {
        Deed::Count => queue.count(selection, progress).await,
        Deed::Replay(lane) => queue.replay_with(selection, lane, progress).await,
        Deed::Discard => queue.discard_with(selection, progress).await,
    }
}

/// `GET /api/dead-letters/run`: the run that is under way, or the last one.
pub(super) async fn run(State(state): State<HttpState>) -> Json<Value> {
    Json(json!({"run": *state.letters.run.lock()}))
}

/// `?limit=&job=&code=`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    limit: Option<usize>,
    job: Option<String>,
    code: Option<String>,
}

/// `GET /api/dead-letters`: the oldest first, with their reasons. What the producer sent isn't shown: it has the message.
pub(super) async fn list(
    State(state): State<HttpState>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query?;
    let queue = state.letters.queue()?;
    let limit = query.limit.unwrap_or(PAGE).clamp(1, MAX_PAGE);
    let selection = match (query.job, query.code) {
        (None, None) => Selection::All,
        (Some(job), None) => Selection::Job(job),
        (None, Some(code)) => Selection::Code(code),
        (Some(_), Some(_)) => return Err(ApiError::Invalid("either job or code".into())),
    };
    let Ok(_place) = tokio::time::timeout(BUSY_PATIENCE, state.letters.busy.lock()).await else {
        return Err(ApiError::Conflict("another run over the dead letters is under way"));
    };
    let letters = queue.find(&selection, limit).await?;
    let more = letters.len() == limit;
    let mut codes = BTreeMap::<&str, u64>::new();
    for letter in &letters {
        *codes.entry(&letter.code).or_default() += 1;
    }
    let codes: Vec<Value> = codes
        .into_iter()
        .map(|(code, count)| {
            let known = meaning(code);
            json!({"code": code, "count": count, "meaning": known.map(|known| known.meaning),
                   "advice": known.map(|known| known.advice)})
        })
        .collect();
    let shown: Vec<Value> = letters.iter().map(shown).collect();
    Ok(Json(json!({"letters": shown, "codes": codes, "more": more})).into_response())
}

fn shown(letter: &DeadLetter) -> Value {
    json!({
        "job": letter.job_id, "letter": letter.letter_id, "code": letter.code, "error": letter.sentence,
        "queue": letter.queue, "attempts": letter.attempts, "generation": letter.generation, "bytes": letter.body.len(),
    })
}
