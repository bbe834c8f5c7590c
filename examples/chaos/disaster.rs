//! What happens when: the schedule of disasters, decided by the seed.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use im_dispatcher::simulator::{FaultRule, Simulator};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use tokio::task::JoinSet;

use crate::{fleet::Fleet, report::say, services::Services};

/// What has happened.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub(crate) struct Done {
    /// Workers killed.
    pub(crate) kills: u32,
    /// Workers asked to end, and started again when they had.
    pub(crate) restarts: u32,
    /// Workers stopped for seconds.
    pub(crate) freezes: u32,
    /// Links cut.
    pub(crate) cuts: u32,
    /// Links stalled.
    pub(crate) stalls: u32,
    /// Times of throttling.
    pub(crate) throttles: u32,
    /// Times when the service took no call at all.
    pub(crate) outages: u32,
    /// The broker killed; of a cluster the node that led a queue.
    pub(crate) broker_kills: u32,
    /// That node cut off from the others.
    pub(crate) node_cuts: u32,
    /// Postgres stopped at once.
    pub(crate) postgres_crashes: u32,
    /// Workers that ended by themselves: none may.
    pub(crate) deaths: u32,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} kills, {} restarts, {} freezes, {} cuts, {} stalls, {} throttles, {} outages, {} broker kills, {} nodes cut off, {} Postgres crashes",
            self.kills,
            self.restarts,
            self.freezes,
            self.cuts,
            self.stalls,
            self.throttles,
            self.outages,
            self.broker_kills,
            self.node_cuts,
            self.postgres_crashes
        )
    }
}

/// What ends a disaster of a worker.
#[derive(Debug, Clone, Copy)]
enum Mend {
    Start(usize),
    Thaw(usize),
    Link(usize, usize),
}

/// Services crash once in so long.
const SERVICE_PERIOD: Duration = Duration::from_mins(2);

/// A node of a cluster is lost so long after the one before is back.
const NODE_PERIOD: Duration = Duration::from_secs(20);

/// Strikes until the time is over, then mends everything.
pub(crate) async fn run(
    fleet: &mut Fleet,
    services: &Services,
    simulator: &Simulator,
    seed: u64,
    until: Instant,
) -> anyhow::Result<Done> {
    let mut random = StdRng::seed_from_u64(seed ^ 0xd15a_57e2);
    let mut done = Done::default();
    let mut mends: Vec<(Instant, Mend)> = Vec::new();
    let began = Instant::now();
    let span = until.saturating_duration_since(began);
    // Each service's first crash lies inside the run, however short it is; the broker's not at its very begin.
    let mut broker = began + (span / 4).max(Duration::from_secs(8)).min(SERVICE_PERIOD / 2);
    let mut postgres = began + (span * 3 / 5).min(SERVICE_PERIOD);
    let mut outage = began + (span * 2 / 5).min(SERVICE_PERIOD * 3 / 4);
    let mut next = began + Duration::from_secs(3);
    let mut crashes: JoinSet<anyhow::Result<()>> = JoinSet::new();
    let mut lost_nodes: JoinSet<anyhow::Result<()>> = JoinSet::new();
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = Instant::now();
        mend(fleet, &mut mends, now)?;
        while let Some(back) = lost_nodes.try_join_next() {
            back??;
            broker = now + NODE_PERIOD;
        }
        if let Some(cluster) = &services.cluster
            && now >= broker
            && lost_nodes.is_empty()
        {
            let is_cut = done.node_cuts < done.broker_kills;
            let away = Duration::from_millis(random.random_range(2_000..25_000));
            let cluster = Arc::clone(cluster);
            lost_nodes.spawn(async move {
                let leader = cluster.leader().await;
                if is_cut {
                    cluster.cut_off(leader, away).await
                } else {
                    cluster.kill(leader, away).await
                }
            });
            *if is_cut {
                &mut done.node_cuts
            } else {
                &mut done.broker_kills
            } += 1;
        } else if services.cluster.is_none() && now >= broker && broker < until {
            broker += SERVICE_PERIOD;
            say("SIGKILL to the broker, and its start");
            let services = services.clone();
            crashes.spawn(async move { services.kill_broker().await });
            done.broker_kills += 1;
        } else if now >= postgres && postgres < until {
            postgres += SERVICE_PERIOD;
            say("Postgres is stopped at once, and started");
            let services = services.clone();
            crashes.spawn(async move { services.crash_postgres().await });
            done.postgres_crashes += 1;
        } else if now >= outage && outage < until {
            outage += SERVICE_PERIOD;
            say("the service takes no call for 20 s");
            let rule: FaultRule = "*:reset_before=1,for=20s".parse().map_err(anyhow::Error::msg)?;
            simulator.add_fault(rule);
            done.outages += 1;
        } else if now >= next {
            next = now + Duration::from_millis(random.random_range(1_500..4_000));
            strike(fleet, simulator, &mut random, &mut done, &mut mends)?;
        }
    }
    // The services are back before the workers are.
    while let Some(back) = lost_nodes.join_next().await {
        back??;
    }
    while let Some(back) = crashes.join_next().await {
        back??;
    }
    fleet.mend().await?;
    Ok(done)
}

fn strike(
    fleet: &mut Fleet,
    simulator: &Simulator,
    random: &mut StdRng,
    done: &mut Done,
    mends: &mut Vec<(Instant, Mend)>,
) -> anyhow::Result<()> {
    let worker = random.random_range(0..fleet.places.len());
    let now = Instant::now();
    let mut span = |from: u64, to: u64| now + Duration::from_millis(random.random_range(from..to));
    let (short, long) = (span(200, 2_000), span(1_000, 15_000));
    let is_down = mends
        .iter()
        .any(|(_, mend)| matches!(mend, Mend::Start(at) if *at == worker));
    let is_frozen = mends
        .iter()
        .any(|(_, mend)| matches!(mend, Mend::Thaw(at) if *at == worker));
    match random.random_range(0..100) {
        // A frozen worker may be killed, too; one that is down can't.
        0..32 if !is_down => {
            if !fleet.is_running(worker)? {
                done.deaths += 1;
                say(&format!("worker {worker} had ended by itself"));
            }
            say(&format!("SIGKILL to worker {worker}"));
            fleet.kill(worker)?;
            mends.retain(|(_, mend)| !matches!(mend, Mend::Thaw(at) if *at == worker));
            mends.push((short, Mend::Start(worker)));
            done.kills += 1;
        }
        32..40 if !is_down && !is_frozen => {
            say(&format!("SIGTERM to worker {worker}"));
            fleet.terminate(worker)?;
            mends.push((now, Mend::Start(worker)));
            done.restarts += 1;
        }
        40..60 if !is_down && !is_frozen => {
            say(&format!("SIGSTOP to worker {worker}"));
            fleet.freeze(worker, true)?;
            mends.push((long, Mend::Thaw(worker)));
            done.freezes += 1;
        }
        60..90 => {
            let link = random.random_range(0..3);
            let name = ["RabbitMQ", "Postgres", "the IM API (everybody's)"][link];
            let relays = &fleet.places[worker].links.relays[link];
            if random.random_bool(0.7) {
                say(&format!("worker {worker}'s link to {name} is cut"));
                for relay in relays {
                    relay.cut();
                }
                done.cuts += 1;
            } else {
                say(&format!("worker {worker}'s link to {name} stalls"));
                for relay in relays {
                    relay.stall();
                }
                done.stalls += 1;
            }
            // Bytes that a stalled link holds arrive up to 4 s late, before anything is sent again.
            mends.push((short + Duration::from_millis(500), Mend::Link(worker, link)));
        }
        90..100 => {
            say("the service throttles");
            let rule: FaultRule = "*:code:60007=1,for=1500ms".parse().map_err(anyhow::Error::msg)?;
            simulator.add_fault(rule);
            done.throttles += 1;
        }
        _ => {}
    }
    Ok(())
}

fn mend(fleet: &mut Fleet, mends: &mut Vec<(Instant, Mend)>, now: Instant) -> anyhow::Result<()> {
    let due: Vec<Mend> = mends
        .iter()
        .filter(|(at, _)| *at <= now)
        .map(|(_, mend)| *mend)
        .collect();
    mends.retain(|(at, _)| *at > now);
    for mend in due {
        match mend {
            // One that was asked to end drains first.
            Mend::Start(worker) if fleet.is_running(worker)? => {
                mends.push((now + Duration::from_millis(200), Mend::Start(worker)));
            }
            Mend::Start(worker) => fleet.spawn(worker)?,
            Mend::Thaw(worker) => fleet.freeze(worker, false)?,
            Mend::Link(worker, link) => {
                fleet.places[worker].links.relays[link]
                    .iter()
                    .for_each(|relay| relay.restore());
            }
        }
    }
    Ok(())
}
