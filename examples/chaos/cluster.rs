//! A RabbitMQ cluster on loopback whose nodes find each other by relays of ours: so a node's distribution port can be cut
//! off from the others', and only from theirs.
//!
//! Each node has a port mapper of its own (epmd). There we register every other node's name, as it would itself, with the
//! port of a relay to it; a name lives as long as its registration's connection.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{fleet, relay::Relay, report::say, services::script};

/// How long a node may take to come back.
const PATIENCE: Duration = Duration::from_mins(3);

/// A node, as `services.sh nodes` tells.
#[derive(Debug)]
struct Node {
    number: String,
    name: String,
    distribution: u16,
    mapper: u16,
}

/// The way from one node to another.
#[derive(Debug)]
struct Way {
    from: usize,
    to: usize,
    relay: Relay,
    _registration: TcpStream,
}

/// The nodes, and the ways between them.
#[derive(Debug)]
pub(crate) struct Cluster {
    nodes: Vec<Node>,
    ways: Vec<Way>,
}

impl Cluster {
    /// Makes one cluster of the nodes that are up.
    pub(crate) async fn form() -> anyhow::Result<Self> {
        let nodes = nodes().await?;
        let mut ways = Vec::new();
        for (from, at) in nodes.iter().enumerate() {
            for (to, node) in nodes.iter().enumerate().filter(|(to, _)| *to != from) {
                let relay = Relay::start(format!("127.0.0.1:{}", node.distribution)).await;
                let alias = node.name.split('@').next().unwrap_or_default();
                let registration = register(at.mapper, alias, relay.address().port()).await;
                ways.push(Way {
                    from,
                    to,
                    relay,
                    _registration: registration.with_context(|| format!("tell {} of {alias}", at.name))?,
                });
            }
        }
        for node in &nodes[1..] {
            node.ctl(&["stop_app"]).await?;
            node.ctl(&["join_cluster", &nodes[0].name]).await?;
            node.ctl(&["start_app"]).await?;
        }
        let cluster = Self { nodes, ways };
        cluster.until_whole().await?;
        Ok(cluster)
    }

    /// Waits until every node sees every other.
    pub(crate) async fn until_whole(&self) -> anyhow::Result<()> {
        let began = Instant::now();
        for node in &self.nodes {
            while !self.sees_all(node).await {
                ensure!(began.elapsed() < PATIENCE, "{} doesn't see the others", node.name);
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
        }
        Ok(())
    }

    async fn sees_all(&self, node: &Node) -> bool {
        // One that is paused doesn't answer, and the others don't count it.
        let status = node.ctl(&["-q", "cluster_status", "--formatter", "json"]).await;
        let status = status.and_then(|text| Ok(serde_json::from_str::<Value>(&text)?));
        status.is_ok_and(|status| status["running_nodes"].as_array().map(Vec::len) == Some(self.nodes.len()))
    }

    /// The node that leads the queue of the lane `normal`; the first where nobody tells.
    pub(crate) async fn leader(&self) -> usize {
        let queue = format!("{}.jobs.normal", fleet::NAMESPACE);
        for node in &self.nodes {
            let Ok(listed) = node.ctl(&["-q", "list_queues", "name", "leader"]).await else {
                continue;
            };
            let leader = listed.lines().find_map(|line| {
                let (name, leader) = line.split_once('\t')?;
                (name == queue).then(|| leader.trim().to_owned())
            });
            if let Some(at) = leader.and_then(|leader| self.nodes.iter().position(|node| node.name == leader)) {
                return at;
            }
        }
        0
    }

    /// SIGKILL to a node; it starts again on its data some seconds later.
    pub(crate) async fn kill(&self, node: usize, away: Duration) -> anyhow::Result<()> {
        let node = &self.nodes[node];
        say(&format!("SIGKILL to {}", node.name));
        script(&["kill-broker"], Some(&node.number)).await?;
        tokio::time::sleep(away).await;
        script(&["start-broker"], Some(&node.number)).await?;
        self.until_whole().await?;
        say(&format!("{} is back", node.name));
        Ok(())
    }

    /// Cuts a node's distribution off from the others for a while. Clients still reach it.
    pub(crate) async fn cut_off(&self, node: usize, away: Duration) -> anyhow::Result<()> {
        let ways = || self.ways.iter().filter(|way| way.from == node || way.to == node);
        say(&format!("the distribution of {} is cut", self.nodes[node].name));
        ways().for_each(|way| way.relay.cut());
        tokio::time::sleep(away).await;
        ways().for_each(|way| way.relay.restore());
        self.until_whole().await?;
        say(&format!("{} sees the others again", self.nodes[node].name));
        Ok(())
    }

    /// Lets every node write the names of new queues to disk.
    pub(crate) async fn sync_queues(&self) {
        for node in &self.nodes {
            // Not there in other versions, which need it not.
            drop(node.ctl(&["eval", "dets:sync(ra_directory_reverse)."]).await);
        }
    }
}

impl Node {
    async fn ctl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let all: Vec<&str> = ["rabbitmqctl"].iter().chain(arguments).copied().collect();
        script(&all, Some(&self.number)).await
    }
}

async fn nodes() -> anyhow::Result<Vec<Node>> {
    let listed = script(&["nodes"], None).await?;
    let nodes: anyhow::Result<Vec<Node>> = listed
        .lines()
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [number, name, _, distribution, mapper] = words[..] else {
                bail!("services.sh nodes says {line:?}");
            };
            Ok(Node {
                number: number.to_owned(),
                name: name.to_owned(),
                distribution: distribution.parse()?,
                mapper: mapper.parse()?,
            })
        })
        .collect();
    let nodes = nodes?;
    ensure!(nodes.len() > 1, "one node is no cluster: start it by scripts/chaos.sh");
    Ok(nodes)
}

/// Registers a name with a port mapper: `ALIVE2_REQ` of the distribution protocol (Erlang's manual, "Distribution
/// Protocol"), as a normal node (77) over IPv4 (0) that speaks the versions 5 to 6.
async fn register(mapper: u16, name: &str, port: u16) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", mapper)).await?;
    let mut request = vec![120];
    request.extend(port.to_be_bytes());
    request.extend([77, 0]);
    request.extend(6_u16.to_be_bytes());
    request.extend(5_u16.to_be_bytes());
    request.extend(u16::try_from(name.len())?.to_be_bytes());
    request.extend(name.bytes());
    request.extend(0_u16.to_be_bytes());
    stream.write_u16(u16::try_from(request.len())?).await?;
    stream.write_all(&request).await?;
    // `ALIVE2_RESP` (121) or `ALIVE2_X_RESP` (118), then the result, 0 if all is well.
    let answer = [stream.read_u8().await?, stream.read_u8().await?];
    ensure!(matches!(answer, [118 | 121, 0]), "the port mapper answers {answer:?}");
    Ok(stream)
}
