//! One publishing channel: takes requests, pipelines them, gives each its own confirm.
//!
//! Two kinds of channel, because of what lapin does with a returned message: it hands it out with whichever confirm
//! comes next, and one `basic.ack` for many resolves them in any order. Where returns are possible, publishes therefore
//! go in groups, and a group is answered when all its confirms and returns are there; where they are not, freely.
//!
//! All publishes of a channel are started by one task: lapin numbers a publish and queues its frames in two steps, so
//! two tasks could be given each other's confirms.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, future::join_all, stream::FuturesUnordered};
use lapin::{BasicProperties, Channel, Confirmation, options::BasicPublishOptions, types::ShortString};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

use super::{
    link::{Link, close_channel},
    publisher::{Confirmed, Publication, PublishError, Request, unknown},
    shared::{PublishState, Shared, Side},
    supervisor::{Served, Service, count_failure, mend},
    watchdog,
};

/// The channels of a process.
pub(super) const CHANNELS: [Kind; 4] = [Kind::Plain, Kind::Plain, Kind::Mandatory, Kind::Mandatory];
/// How many requests wait for a channel before callers have to wait.
pub(super) const QUEUE: usize = 512;
/// The most publishes without a confirm on a plain channel.
const MAX_IN_FLIGHT: usize = 1024;
/// The largest group on a mandatory channel.
const MAX_GROUP: usize = 128;
/// How often a channel looks whether its confirms still come.
const STALL_CHECK: Duration = Duration::from_secs(1);

/// What a channel is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Publishes that can't be returned.
    Plain,
    /// Publishes that can.
    Mandatory,
}

/// Why a channel's task ended.
enum End {
    Stopped,
    /// The connection is gone or given up.
    Lost,
    /// The channel is gone.
    Failed(String),
    /// No confirm for too long.
    Stalled,
}

struct Slot {
    kind: Kind,
    requests: mpsc::Receiver<Request>,
    failures: u32,
}

/// The publishing channels of all generations of the connection.
pub(super) struct Publishing(Vec<Slot>);

impl Publishing {
    pub(super) fn new(channels: Vec<(Kind, mpsc::Receiver<Request>)>) -> Self {
        Self(
            channels
                .into_iter()
                .map(|(kind, requests)| Slot {
                    kind,
                    requests,
                    failures: 0,
                })
                .collect(),
        )
    }
}

impl Service for Publishing {
    const SIDE: Side = Side::Publish;

    async fn serve(&mut self, shared: &Arc<Shared>, link: &Arc<Link>) -> Served {
        let ended = CancellationToken::new();
        let mut state = link.state();
        let frame_max = link.frame_max();
        shared.publishing.send_replace(PublishState {
            up: true,
            frame_max,
            ..PublishState::default()
        });
        let mut tasks = JoinSet::new();
        for slot in self.0.drain(..) {
            tasks.spawn(run(Arc::clone(shared), Arc::clone(link), ended.clone(), slot, false));
        }
        let mut watchdog = std::pin::pin!(watchdog::watch(shared, link, &[]));
        let served = loop {
            tokio::select! {
                changed = state.changed() => {
                    let now = state.borrow_and_update().clone();
                    if let Some(why) = now.lost.or_else(|| changed.err().map(|error| error.to_string())) {
                        break Served::Lost(why);
                    }
                    if let Some(why) = &now.blocked {
                        tracing::warn!(%why, "RabbitMQ takes no publishes for now");
                    }
                    shared.publishing.send_modify(|publishing| publishing.blocked = now.blocked);
                }
                why = &mut watchdog => {
                    shared.stats.watchdog_resets.add(1);
                    break Served::Lost(why);
                }
                joined = tasks.join_next() => match joined {
                    None => break Served::Stopped,
                    Some(Ok((slot, End::Failed(why)))) => {
                        tracing::warn!(%why, "a publishing channel ended; opening another");
                        tasks.spawn(run(Arc::clone(shared), Arc::clone(link), ended.clone(), slot, true));
                    }
                    Some(Ok((slot, End::Stalled))) => {
                        self.0.push(slot);
                        shared.stats.watchdog_resets.add(1);
                        break Served::Lost("the broker doesn't confirm".to_owned());
                    }
                    Some(Ok((slot, End::Stopped | End::Lost))) => self.0.push(slot),
                    Some(Err(error)) => break Served::Lost(format!("a publishing task ended: {error}")),
                },
            }
        };
        let trouble = match &served {
            Served::Stopped => "shutting down".to_owned(),
            Served::Lost(why) => why.clone(),
        };
        shared.publishing.send_replace(PublishState {
            trouble: Some(trouble),
            ..PublishState::default()
        });
        ended.cancel();
        while let Some(joined) = tasks.join_next().await {
            match joined {
                Ok((slot, _)) => self.0.push(slot),
                Err(error) => tracing::error!(%error, "a publishing task panicked"),
            }
        }
        served
    }
}

async fn run(
    shared: Arc<Shared>,
    link: Arc<Link>,
    ended: CancellationToken,
    mut slot: Slot,
    again: bool,
) -> (Slot, End) {
    if again {
        tokio::select! {
            () = mend(&shared, &link, Side::Publish, slot.failures) => {}
            () = ended.cancelled() => return (slot, End::Lost),
        }
    }
    let since = Instant::now();
    let end = match link.confirm_channel().await {
        Ok(channel) => {
            let publishing = OnChannel {
                shared: &shared,
                link: &link,
                ended: &ended,
                channel: &channel,
            };
            let end = match slot.kind {
                Kind::Plain => publishing.pipeline(&mut slot.requests).await,
                Kind::Mandatory => publishing.groups(&mut slot.requests).await,
            };
            if matches!(end, End::Stopped) {
                close_channel(&channel).await;
            }
            end
        }
        Err(error) => End::Failed(error.to_string()),
    };
    if matches!(end, End::Failed(_)) {
        slot.failures = count_failure(slot.failures, since.elapsed());
    }
    (slot, end)
}

struct OnChannel<'a> {
    shared: &'a Shared,
    link: &'a Link,
    ended: &'a CancellationToken,
    channel: &'a Channel,
}

impl OnChannel<'_> {
    /// Publishes as they come, answers as they are confirmed.
    async fn pipeline(&self, requests: &mut mpsc::Receiver<Request>) -> End {
        let mut in_flight = FuturesUnordered::new();
        let mut batch = Vec::new();
        let mut state = self.link.state();
        let mut check = time::interval(STALL_CHECK);
        let mut last_progress = Instant::now();
        loop {
            let stopping = self.shared.stop.is_cancelled();
            if stopping && in_flight.is_empty() {
                return End::Stopped;
            }
            // What is blocked stays with its caller, who then knows that it was not published.
            let open = !stopping && in_flight.len() < MAX_IN_FLIGHT && self.link.blocked().is_none();
            tokio::select! {
                Some(failed) = in_flight.next(), if !in_flight.is_empty() => {
                    last_progress = Instant::now();
                    if let Some(why) = failed {
                        return End::Failed(why);
                    }
                }
                n = requests.recv_many(&mut batch, MAX_GROUP), if open => {
                    if n == 0 {
                        return End::Stopped;
                    }
                    if in_flight.is_empty() {
                        last_progress = Instant::now();
                    }
                    in_flight.extend(batch.drain(..).filter(|request| request.fate.take()).map(|r| self.one(r)));
                }
                () = self.ended.cancelled() => return End::Lost,
                () = self.shared.stop.cancelled(), if !stopping => {}
                _ = state.changed() => {}
                _ = check.tick() => {
                    if in_flight.is_empty() || self.link.blocked().is_some() {
                        last_progress = Instant::now();
                    } else if last_progress.elapsed() >= self.shared.options.stall_timeout {
                        return End::Stalled;
                    }
                }
            }
        }
    }

    /// Publishes one and answers its caller; the reason if the channel is of no more use.
    async fn one(&self, request: Request) -> Option<String> {
        let confirmation = self.publish(&request.publication).await;
        let failed = confirmation.as_ref().err().map(ToString::to_string);
        let returned = matches!(
            &confirmation,
            Ok(Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)))
        );
        self.answer(request, confirmation, returned);
        failed
    }

    /// Publishes whatever waits as a group, and answers when all of it is confirmed.
    async fn groups(&self, requests: &mut mpsc::Receiver<Request>) -> End {
        let mut batch = Vec::new();
        let mut state = self.link.state();
        loop {
            let open = self.link.blocked().is_none();
            tokio::select! {
                n = requests.recv_many(&mut batch, MAX_GROUP), if open => if n == 0 { return End::Stopped },
                () = self.ended.cancelled() => return End::Lost,
                () = self.shared.stop.cancelled() => return End::Stopped,
                _ = state.changed() => continue,
            }
            let group: Vec<_> = batch.drain(..).filter(|request| request.fate.take()).collect();
            let mut confirmations = {
                let mut all = std::pin::pin!(join_all(group.iter().map(|request| self.publish(&request.publication))));
                loop {
                    tokio::select! {
                        confirmations = &mut all => break confirmations,
                        () = self.ended.cancelled() => return End::Lost,
                        () = time::sleep(self.shared.options.stall_timeout) => if self.link.blocked().is_none() {
                            return End::Stalled;
                        },
                    }
                }
            };
            let returned: Vec<_> = confirmations
                .iter_mut()
                .filter_map(|c| c.as_mut().ok().and_then(take_returned))
                .collect();
            let unroutable = attribute(group.iter().map(|request| &request.publication), &returned);
            let failed = confirmations
                .iter()
                .find_map(|c| c.as_ref().err().map(ToString::to_string));
            for ((request, confirmation), returned) in group.into_iter().zip(confirmations).zip(unroutable) {
                self.answer(request, confirmation, returned);
            }
            if let Some(why) = failed {
                return End::Failed(why);
            }
        }
    }

    async fn publish(&self, publication: &Publication) -> Result<Confirmation, lapin::Error> {
        self.shared.stats.published.add(1);
        let options = BasicPublishOptions {
            mandatory: publication.mandatory,
            immediate: false,
        };
        let properties = publication.properties.clone().into_persistent();
        // The publisher has checked both lengths.
        let name = |value: &str| ShortString::try_new(value).unwrap_or_default();
        let (exchange, key) = (name(&publication.exchange), name(&publication.routing_key));
        self.channel
            .basic_publish(exchange, key, options, &publication.body, properties)
            .await?
            .await
    }

    fn answer(&self, request: Request, confirmation: Result<Confirmation, lapin::Error>, returned: bool) {
        let stats = &self.shared.stats;
        let answer = match confirmation {
            Ok(Confirmation::Ack(_)) => {
                stats.confirmed.add(1);
                stats.unroutable.add(u64::from(returned));
                Ok(if returned {
                    Confirmed::Unroutable
                } else {
                    Confirmed::Routed
                })
            }
            Ok(Confirmation::Nack(_)) => {
                stats.refused.add(1);
                Err(PublishError::Refused)
            }
            Ok(Confirmation::NotRequested) => Err(unknown("confirms are off")),
            Err(error) => {
                stats.unknown.add(1);
                Err(PublishError::Unknown(error.to_string()))
            }
        };
        // A caller that gave up has had its answer.
        drop(request.reply.send(answer));
    }
}

/// What a returned message was.
struct Returned {
    exchange: String,
    routing_key: String,
    properties: BasicProperties,
    body: Vec<u8>,
}

fn take_returned(confirmation: &mut Confirmation) -> Option<Returned> {
    let (Confirmation::Ack(returned) | Confirmation::Nack(returned)) = confirmation else {
        return None;
    };
    let mut message = returned.take()?;
    Some(Returned {
        exchange: message.delivery.exchange.as_str().to_owned(),
        routing_key: message.delivery.routing_key.as_str().to_owned(),
        properties: std::mem::take(&mut message.delivery.properties),
        body: std::mem::take(&mut message.delivery.data),
    })
}

/// Which publications of a group were returned. One that fits in everything is as good as another that does; if none
/// fits, all of that address count as returned: publishing twice is better than not at all.
fn attribute<'a>(group: impl Iterator<Item = &'a Publication>, returned: &[Returned]) -> Vec<bool> {
    let group: Vec<_> = group.collect();
    let mut unroutable = vec![false; group.len()];
    for message in returned {
        let same_address = |publication: &Publication| {
            publication.exchange == message.exchange && publication.routing_key == message.routing_key
        };
        let same = |publication: &Publication| {
            same_address(publication)
                && publication.body == message.body
                && publication.properties.clone().into_persistent() == message.properties
        };
        let fits = (0..group.len()).find(|&i| !unroutable[i] && same(group[i]));
        match fits {
            Some(i) => unroutable[i] = true,
            None => (0..group.len())
                .filter(|&i| same_address(group[i]))
                .for_each(|i| unroutable[i] = true),
        }
    }
    unroutable
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::Properties;

    fn publication(key: &str, body: &str) -> Publication {
        Publication {
            exchange: String::new(),
            routing_key: key.to_owned(),
            properties: Properties::new(),
            body: body.to_owned().into(),
            mandatory: true,
        }
    }

    fn returned(key: &str, body: &str) -> Returned {
        let properties = Properties::new().into_persistent();
        Returned {
            exchange: String::new(),
            routing_key: key.to_owned(),
            properties,
            body: body.into(),
        }
    }

    #[test]
    fn a_return_is_attributed_by_what_it_is_whatever_confirm_it_came_with() {
        let group = [
            publication("here", "a"),
            publication("nowhere", "b"),
            publication("nowhere", "c"),
        ];
        assert_eq!(
            attribute(group.iter(), &[returned("nowhere", "c")]),
            [false, false, true]
        );
    }

    #[test]
    fn two_equal_messages_and_one_return_make_one_unroutable() {
        let group = [publication("nowhere", "a"), publication("nowhere", "a")];
        assert_eq!(attribute(group.iter(), &[returned("nowhere", "a")]), [true, false]);
    }

    #[test]
    fn a_return_that_fits_none_counts_for_all_of_its_address() {
        let group = [
            publication("here", "a"),
            publication("nowhere", "b"),
            publication("nowhere", "c"),
        ];
        assert_eq!(
            attribute(group.iter(), &[returned("nowhere", "changed")]),
            [false, true, true]
        );
    }
}
