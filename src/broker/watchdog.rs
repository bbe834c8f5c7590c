//! Does the connection get anywhere? Asks the broker something every few seconds and compares what waits with what
//! arrives; a connection can look alive for hours and deliver nothing.

use std::{collections::BTreeMap, sync::Arc};

use lapin::Channel;
use tokio::time;

use super::{
    consumer::Progress,
    link::Link,
    shared::Shared,
    topology::{passive, soft_error},
};

/// A queue that has messages, room for more and nothing delivered for so many probes in a row is stuck.
const STUCK_PROBES: u32 = 3;

/// Watches a connection until it is of no more use, and says why.
pub(super) async fn watch(shared: &Shared, link: &Link, queues: &[(Arc<str>, Arc<Progress>)]) -> String {
    let mut ticks = time::interval(shared.options.probe_interval);
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    let mut channel = None;
    let mut stuck: BTreeMap<Arc<str>, (u64, u32)> = BTreeMap::new();
    let dead_queue: Arc<str> = shared.topology.dead_queue().into();
    loop {
        ticks.tick().await;
        // lapin writes nothing to a connection that the broker has blocked, so nothing can be asked on it.
        if link.blocked().is_some() {
            continue;
        }
        // A connection that only publishes is asked for the dead queue, just to hear an answer.
        let asked = if queues.is_empty() {
            vec![&dead_queue]
        } else {
            queues.iter().map(|(name, _)| name).collect()
        };
        let probe = async {
            let mut waiting = BTreeMap::new();
            for queue in asked {
                if let Some(messages) = ask(link, &mut channel, queue).await? {
                    waiting.insert(Arc::clone(queue), messages);
                }
            }
            Ok::<_, String>(waiting)
        };
        let waiting = match time::timeout(shared.options.stall_timeout, probe).await {
            Ok(Ok(waiting)) => waiting,
            Ok(Err(why)) => return why,
            Err(_) if link.blocked().is_some() => continue,
            Err(_) => return "the broker doesn't answer".to_owned(),
        };
        let intake = *shared.intake.borrow();
        for (queue, progress) in queues {
            let delivered = progress.delivered();
            let wanted = shared.lane_of(queue).is_some_and(|lane| intake.wants(lane));
            let entry = stuck.entry(Arc::clone(queue)).or_default();
            let waits = waiting.get(queue).is_some_and(|messages| *messages > 0);
            let nothing_came = wanted && waits && progress.has_room() && entry.0 == delivered;
            *entry = (delivered, if nothing_came { entry.1 + 1 } else { 0 });
            if entry.1 >= STUCK_PROBES {
                return format!("messages wait in queue {queue}, there is room for them, and none arrives");
            }
        }
    }
}

/// How many messages wait in a queue; `None` if there is no such queue. An error means that the connection is gone.
async fn ask(link: &Link, channel: &mut Option<Channel>, queue: &str) -> Result<Option<u32>, String> {
    let open = match channel.take().filter(|channel| channel.status().connected()) {
        Some(open) => open,
        None => link.channel().await.map_err(|error| error.to_string())?,
    };
    match passive(&open, queue).await {
        Ok(found) => {
            *channel = Some(open);
            Ok(Some(found.message_count()))
        }
        // The broker closed the channel over it; the consumer of the queue learns of it by itself.
        Err(error) if soft_error(&error).is_some() => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}
