//! The rows: what each one does, and what it asks for.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use im_dispatcher::{
    domain::Command,
    simulator::{Arrival, Limits},
};
use serde_json::json;

use crate::{
    Arguments,
    count::{SECOND, between, fullest, quantile},
    producer::send_job,
    scene::{Plan, Scene},
    table::{Bound, Measured},
};

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Row {
    /// A backlog, and so many workers.
    Backlog { limit: u32, workers: usize },
    /// Batches of one size.
    Batches { chunk: usize },
    /// A worker is killed again and again.
    Kills,
    /// Urgent jobs beside a campaign.
    Urgent { workers: usize },
    /// A lane's floor.
    Floor,
    /// No limit in force.
    Free,
}

/// The limit of most rows.
const LIMIT: u32 = 200;

impl Row {
    /// Every row, in the order of the table.
    pub(crate) fn all() -> Vec<Self> {
        let mut rows = Vec::new();
        for limit in [200, 20, 1_000] {
            for workers in [1, 4, 16] {
                rows.push(Self::Backlog { limit, workers });
            }
        }
        rows.extend([Self::Batches { chunk: 500 }, Self::Batches { chunk: 37 }]);
        rows.push(Self::Kills);
        rows.extend([Self::Urgent { workers: 1 }, Self::Urgent { workers: 16 }]);
        rows.extend([Self::Floor, Self::Free]);
        rows
    }

    /// Its name as an argument.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Backlog { limit, workers } => format!("backlog-{limit}-{workers}"),
            Self::Batches { chunk } => format!("batches-{chunk}"),
            Self::Kills => "kills".to_owned(),
            Self::Urgent { workers } => format!("urgent-{workers}"),
            Self::Floor => "floor".to_owned(),
            Self::Free => "free".to_owned(),
        }
    }

    /// Its name in the table.
    pub(crate) fn title(self) -> String {
        match self {
            Self::Backlog { limit, workers } => format!("limit {limit}, {workers} workers, backlog"),
            Self::Batches { chunk } => format!("12,000 recipients a minute, batches of {chunk}"),
            Self::Kills => "one of four workers killed -9 every 5 s".to_owned(),
            Self::Urgent { workers } => format!("a bulk backlog, one high job every 200 ms, {workers} workers"),
            Self::Floor => "bulk floor 10 %, high saturated".to_owned(),
            Self::Free => "no limit: CPU with and without the budget".to_owned(),
        }
    }

    /// Carries it out.
    pub(crate) async fn run(self, arguments: &Arguments) -> anyhow::Result<Measured> {
        match self {
            Self::Backlog { limit, workers } => self.backlog(arguments, limit, workers, None).await,
            Self::Kills => self.backlog(arguments, LIMIT, 4, Some(Duration::from_secs(5))).await,
            Self::Batches { chunk } => self.batches(arguments, chunk).await,
            Self::Urgent { workers } => self.urgent(arguments, workers).await,
            Self::Floor => self.floor(arguments).await,
            Self::Free => self.free(arguments).await,
        }
    }

    async fn scene(
        self,
        arguments: &Arguments,
        service: Limits,
        lanes: &'static [&'static str],
        settings: Vec<(&'static str, String)>,
    ) -> anyhow::Result<Scene> {
        let plan = Plan {
            service,
            settings,
            lanes,
            stamps: true,
        };
        Scene::open(arguments, &self.name(), &arguments.binary, plan).await
    }

    /// A backlog in one lane; with `kills` one worker after the other is replaced.
    async fn backlog(
        self,
        arguments: &Arguments,
        limit: u32,
        workers: usize,
        kills: Option<Duration>,
    ) -> anyhow::Result<Measured> {
        let span = arguments.span(60);
        let granted = (f64::from(limit) * 1.02).ceil() as u32;
        let settings = vec![("IM_RATE_LIMIT", limit.to_string())];
        let mut scene = self
            .scene(
                arguments,
                Limits::none().with(Command::SendMsg, granted),
                &["normal"],
                settings,
            )
            .await?;
        scene.workers.start(workers).await?;
        // More than the span takes, whatever the kills put off.
        let jobs = limit as usize * (span.as_secs() as usize + 5) + 100 * workers;
        scene
            .producer
            .publish("normal", (0..jobs).map(|number| send_job("n", number)))
            .await?;
        scene.begin().await?;
        scene.until_delivered(1, Duration::from_secs(30)).await?;
        let began = Instant::now();
        let mut killed = 0;
        while let Some(every) = kills.filter(|every| *every * (killed + 1) < span) {
            tokio::time::sleep_until((began + every * (killed + 1)).into()).await;
            scene.workers.replace(killed as usize)?;
            killed += 1;
        }
        tokio::time::sleep_until((began + span).into()).await;
        let left = jobs as u64 - scene.simulator.delivered_total().min(jobs as u64);
        ensure!(left > 0, "the backlog was too short");
        let (arrivals, throttled) = (scene.arrivals(Command::SendMsg), scene.throttled(Command::SendMsg));
        scene.workers.stop().await?;
        let stamps = scene.workers.stamps()?;
        scene.close().await?;

        let (written, slots) = (calls(&stamps.written), calls(&stamps.slots));
        let arrived: Vec<(u64, u64)> = arrivals.iter().map(|arrival| (arrival.at, 1)).collect();
        let first = arrived.first().context("no call arrived")?.0;
        let (from, to) = (first + SECOND, first + span.as_micros() as u64);
        let used = between(&arrived, from, to) as f64 * SECOND as f64 / (to - from) as f64 / f64::from(limit);
        let least = match (kills, workers) {
            (Some(_), _) => 0.97,
            (None, 1) => 0.995,
            _ => 0.99,
        };
        let mut bounds = vec![
            Bound::at_most(
                "sent in any 1,000 ms, the workers' stamps",
                limit.into(),
                fullest(&slots, SECOND),
            ),
            Bound::at_most(
                "written in any 1,000 ms, the workers' stamps",
                granted.into(),
                fullest(&written, SECOND),
            ),
            Bound::at_most("arrived in any 980 ms", limit.into(), fullest(&arrived, 980_000)),
            Bound::at_most("arrived in any 1,000 ms", granted.into(), fullest(&arrived, SECOND)),
            Bound::at_least_share("of the limit used", least, used),
        ];
        if kills.is_none() {
            bounds.push(Bound::at_most("throttled", 0, throttled));
        }
        Ok(Measured {
            bounds,
            figures: json!({
                "limit": limit, "workers": workers, "seconds": span.as_secs(), "kills": killed,
                "calls": arrived.len(), "used": used, "throttled": throttled,
                "slots_1000ms": fullest(&slots, SECOND), "written_1000ms": fullest(&written, SECOND),
                "arrived_980ms": fullest(&arrived, 980_000), "arrived_1000ms": fullest(&arrived, SECOND),
            }),
        })
    }

    async fn batches(self, arguments: &Arguments, chunk: usize) -> anyhow::Result<Measured> {
        const MINUTE: u64 = 60 * SECOND;
        let (span, limit) = (arguments.span(180), 12_000_u32);
        let settings = vec![("IM_BATCH_RECIPIENTS_PER_MINUTE", limit.to_string())];
        let mut scene = self.scene(arguments, Limits::none(), &["bulk"], settings).await?;
        scene.workers.start(1).await?;
        let jobs = (limit as usize * (span.as_secs() as usize / 60 + 2)).div_ceil(chunk);
        let job = |number: usize| {
            let to: Vec<String> = (0..chunk).map(|member| format!("u{number}_{member}")).collect();
            json!({"type": "batch_send", "id": format!("b-{number}"), "to": to, "message": {"text": format!("Sale {number}")}})
                .to_string()
        };
        scene.producer.publish("bulk", (0..jobs).map(job)).await?;
        scene.begin().await?;
        scene.until_delivered(1, Duration::from_secs(30)).await?;
        tokio::time::sleep(span).await;
        let arrivals = scene.arrivals(Command::BatchSendMsg);
        let throttled = scene.throttled(Command::BatchSendMsg);
        scene.close().await?;
        let arrived: Vec<(u64, u64)> = arrivals.iter().map(|one| (one.at, one.recipients.into())).collect();
        let first = arrived.first().context("no batch arrived")?.0;
        let recipients = between(&arrived, first, first + span.as_micros() as u64);
        let used = recipients as f64 / (f64::from(limit) * span.as_secs_f64() / 60.0);
        Ok(Measured {
            bounds: vec![
                Bound::at_most(
                    "recipients in the busiest minute",
                    limit.into(),
                    fullest(&arrived, MINUTE),
                ),
                Bound::at_least_share("of the limit used", 0.99, used),
            ],
            figures: json!({
                "chunk": chunk, "seconds": span.as_secs(), "calls": arrived.len(), "recipients": recipients,
                "used": used, "busiest_minute": fullest(&arrived, MINUTE), "throttled": throttled,
            }),
        })
    }

    async fn urgent(self, arguments: &Arguments, workers: usize) -> anyhow::Result<Measured> {
        let settings = vec![("IM_RATE_LIMIT", LIMIT.to_string())];
        let granted = Limits::none().with(Command::SendMsg, LIMIT + LIMIT / 50);
        let mut scene = self.scene(arguments, granted, &["bulk"], settings).await?;
        scene.workers.start(workers).await?;
        scene
            .producer
            .publish("bulk", (0..arguments.bulk).map(|number| send_job("b", number)))
            .await?;
        scene.begin().await?;
        // The burst with which an idle budget answers is over.
        scene
            .until_delivered(u64::from(LIMIT) * 3, Duration::from_mins(1))
            .await?;
        let began = Instant::now();
        let mut sent = Vec::new();
        for number in 0..arguments.samples {
            tokio::time::sleep_until((began + Duration::from_millis(200) * number as u32).into()).await;
            let job = send_job("h", number);
            sent.push(Instant::now());
            scene.producer.send("high", &job).await?;
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        let arrivals = scene.arrivals(Command::SendMsg);
        let mut waits = Vec::new();
        for (number, sent) in sent.iter().enumerate() {
            let to = format!("h_{number}");
            let called = arrivals
                .iter()
                .find(|arrival| arrival.first_recipient.as_deref() == Some(&to));
            let called = called.with_context(|| format!("{to} got nothing"))?.at;
            waits.push(called.saturating_sub(scene.at(*sent)) as f64 / 1_000.0);
        }
        let arrived: Vec<(u64, u64)> = arrivals.iter().map(|arrival| (arrival.at, 1)).collect();
        let left = arguments.bulk.saturating_sub(arrived.len());
        let throttled = scene.throttled(Command::SendMsg);
        scene.workers.stop().await?;
        scene.close().await?;
        ensure!(left > 0, "the backlog was too short");
        let (median, p99) = (quantile(&mut waits, 0.5), quantile(&mut waits, 0.99));
        Ok(Measured {
            bounds: vec![
                Bound::faster("published to called, median", 15.0, median),
                Bound::faster("published to called, p99", 50.0, p99),
            ],
            figures: json!({
                "workers": workers, "bulk": arguments.bulk, "samples": waits.len(), "median_ms": median, "p99_ms": p99,
                "p90_ms": quantile(&mut waits, 0.9), "max_ms": quantile(&mut waits, 1.0), "throttled": throttled,
                "arrived_980ms": fullest(&arrived, 980_000),
            }),
        })
    }

    async fn floor(self, arguments: &Arguments) -> anyhow::Result<Measured> {
        let span = arguments.span(30);
        let settings = vec![
            ("IM_RATE_LIMIT", LIMIT.to_string()),
            ("IM_DISPATCHER__LANES__BULK__FLOOR", "0.1".to_owned()),
        ];
        let mut scene = self
            .scene(arguments, Limits::none(), &["high", "bulk"], settings)
            .await?;
        scene.workers.start(1).await?;
        let jobs = LIMIT as usize * (span.as_secs() as usize + 8);
        scene
            .producer
            .publish("high", (0..jobs).map(|number| send_job("h", number)))
            .await?;
        scene
            .producer
            .publish("bulk", (0..jobs / 4).map(|number| send_job("b", number)))
            .await?;
        scene.begin().await?;
        // Both lanes flow, and the burst with which an idle budget answers is over.
        scene
            .until_delivered(u64::from(LIMIT) * 3, Duration::from_mins(1))
            .await?;
        let from = scene.at(Instant::now());
        tokio::time::sleep(span).await;
        let to = scene.at(Instant::now());
        let arrivals = scene.arrivals(Command::SendMsg);
        scene.workers.stop().await?;
        scene.close().await?;
        let of = |lane: &str| {
            let stamps: Vec<(u64, u64)> = arrivals
                .iter()
                .filter(|one| is_of(one, lane))
                .map(|one| (one.at, 1))
                .collect();
            between(&stamps, from, to)
        };
        let (high, bulk) = (of("h_"), of("b_"));
        ensure!(high + bulk > 0, "nothing arrived");
        let share = bulk as f64 / (high + bulk) as f64;
        Ok(Measured {
            bounds: vec![Bound {
                what: "of the calls are bulk's",
                asked: "9 to 11 %".to_owned(),
                got: format!("{:.2} %", share * 100.0),
                holds: (0.09..=0.11).contains(&share),
            }],
            figures: json!({"seconds": span.as_secs(), "high": high, "bulk": bulk, "share": share}),
        })
    }

    /// CPU of a worker, by turns with and without the budget.
    async fn free(self, arguments: &Arguments) -> anyhow::Result<Measured> {
        let binary = arguments.bare_binary.as_deref().context("--bare-binary isn't given")?;
        let (mut with, mut without, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for pair in 0..arguments.pairs {
            // Each first in turn: a machine that warms up or cools down favours neither.
            let bare_first = pair % 2 == 1;
            let first = self.cpu(arguments, binary, bare_first).await?;
            let second = self.cpu(arguments, binary, !bare_first).await?;
            let (budget, bare) = if bare_first { (second, first) } else { (first, second) };
            ratios.push(budget / bare);
            with.push(budget);
            without.push(bare);
        }
        let ratio = quantile(&mut ratios, 0.5);
        Ok(Measured {
            bounds: vec![Bound {
                what: "CPU per 1,000 jobs, median of the pairs",
                asked: "≤ 1.05".to_owned(),
                got: format!("{ratio:.3}"),
                holds: ratio <= 1.05,
            }],
            figures: json!({
                "jobs": arguments.jobs, "ratios": ratios,
                "with_cpu_ms_per_1000": with, "without_cpu_ms_per_1000": without,
            }),
        })
    }

    /// CPU milliseconds for 1,000 jobs, without a limit.
    async fn cpu(self, arguments: &Arguments, binary: &Path, bare: bool) -> anyhow::Result<f64> {
        let mut settings = vec![("IM_RATE_LIMIT", "0".to_owned())];
        if bare {
            settings.push(("IM_DISPATCHER_FAULT", "budget=off".to_owned()));
        }
        let plan = Plan {
            service: Limits::none(),
            settings,
            lanes: &["normal"],
            stamps: false,
        };
        let mut scene = Scene::open(arguments, &self.name(), binary, plan).await?;
        scene.workers.start(1).await?;
        scene
            .producer
            .publish("normal", (0..arguments.jobs).map(|number| send_job("n", number)))
            .await?;
        let before = scene.workers.cpu_seconds()?;
        scene.begin().await?;
        scene
            .until_delivered(arguments.jobs as u64, Duration::from_mins(5))
            .await?;
        // Until the last outcomes are written and acknowledged.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let used = scene.workers.cpu_seconds()? - before;
        scene.close().await?;
        Ok(used * 1_000_000.0 / arguments.jobs as f64)
    }
}

/// Stamps as windows count them.
fn calls(stamps: &[u64]) -> Vec<(u64, u64)> {
    stamps.iter().map(|&at| (at, 1)).collect()
}

fn is_of(arrival: &Arrival, prefix: &str) -> bool {
    let to = arrival.first_recipient.as_deref();
    to.is_some_and(|to| to.starts_with(prefix))
}
