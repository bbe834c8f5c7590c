//! A load generator for the simulator: how many calls a second does it answer for each second of CPU that it takes?
//!
//! `simload BASE_URL PID [CALLS] [CONNECTIONS] [PIPELINE]` sends signed sendmsg calls over keep-alive connections, each
//! with `PIPELINE` requests on their way at a time, and reads what the simulator's process `PID` used from
//! `/proc/PID/stat`. It prints one JSON object. It knows nothing of the product's own client: requests are bytes that are
//! made once, except for the numbers that make each call another message.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    thread,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, ensure};
use im_dispatcher::{
    im::user_sig,
    simulator::{SAMPLE_SDK_APP_ID, SAMPLE_SECRET},
};

/// Clock ticks a second in /proc: `USER_HZ`, 100 on every Linux that Rust supports.
const TICKS: f64 = 100.0;
/// The most calls of one run: each is a message that the simulator keeps in memory.
const MAX_CALLS: u64 = 5_000_000;

/// CPU seconds of a process, user and system.
fn cpu_seconds(pid: &str) -> anyhow::Result<f64> {
    let stat =
        fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("read the times of process {pid}"))?;
    // The name may have blanks: fields are counted from its closing parenthesis. utime and stime are 14 and 15.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| {
        fields
            .get(index)
            .and_then(|text| text.parse::<f64>().ok())
            .context("no times in stat")
    };
    Ok((ticks(11)? + ticks(12)?) / TICKS)
}

/// One connection's share of the calls.
fn drive(address: &str, head: &str, connection: u64, calls: u64, pipeline: u64) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(64 * 1024, stream.try_clone()?);
    let (mut requests, mut line, mut body) = (Vec::new(), String::new(), Vec::new());
    let mut sent = 0;
    while sent < calls {
        requests.clear();
        let burst = pipeline.min(calls - sent);
        for number in sent..sent + burst {
            // 10,000 recipients over all connections, and another random for each call.
            let (to, random) = ((connection * 1_000_003 + number) % 10_000, connection * calls + number);
            let json = format!(
                r#"{{"From_Account":"sender","To_Account":"user_{to}","MsgSeq":7,"MsgRandom":{random},"MsgBody":[{{"MsgType":"TIMTextElem","MsgContent":{{"Text":"Your parcel {random} is on its way"}}}}]}}"#
            );
            write!(requests, "{head}Content-Length: {}\r\n\r\n{json}", json.len())?;
        }
        stream.write_all(&requests)?;
        for _ in 0..burst {
            let mut length = 0;
            loop {
                line.clear();
                ensure!(reader.read_line(&mut line)? > 0, "the connection ended");
                if let Some(value) = line.strip_prefix("content-length: ") {
                    length = value.trim().parse()?;
                }
                if line == "\r\n" {
                    break;
                }
            }
            body.resize(length, 0);
            reader.read_exact(&mut body)?;
            ensure!(
                body.starts_with(br#"{"ActionStatus":"OK""#),
                "refused: {}",
                String::from_utf8_lossy(&body)
            );
        }
        sent += burst;
    }
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [base_url, pid, rest @ ..] = args.as_slice() else {
        anyhow::bail!("usage: simload BASE_URL PID [CALLS] [CONNECTIONS] [PIPELINE]");
    };
    let number = |index: usize, default: u64| rest.get(index).map_or(Ok(default), |text| text.parse());
    let (calls, connections, pipeline) = (number(0, 300_000)?, number(1, 16)?, number(2, 16)?);
    ensure!(
        (1..=MAX_CALLS).contains(&calls) && (1..=256).contains(&connections) && (1..=128).contains(&pipeline),
        "out of bounds"
    );
    let address = base_url
        .strip_prefix("http://")
        .context("the base URL is http://HOST:PORT")?;

    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let sig = user_sig::sign(SAMPLE_SDK_APP_ID, "administrator", &SAMPLE_SECRET.into(), now, 3600);
    let head = format!(
        "POST /v4/openim/sendmsg?sdkappid={SAMPLE_SDK_APP_ID}&identifier=administrator&usersig={}&random=4242&contenttype=json HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nAccept: */*\r\n",
        sig.expose()
    );

    let (cpu, started) = (cpu_seconds(pid)?, Instant::now());
    let share = calls.div_ceil(connections);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..connections)
            .map(|connection| {
                let head = &head;
                scope.spawn(move || drive(address, head, connection, share, pipeline))
            })
            .collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().map_err(|_| anyhow::anyhow!("a connection panicked"))?)
    })?;
    let (calls, seconds, cpu) = (
        share * connections,
        started.elapsed().as_secs_f64(),
        cpu_seconds(pid)? - cpu,
    );
    let result = serde_json::json!({
        "calls": calls,
        "connections": connections,
        "pipeline": pipeline,
        "seconds": seconds,
        "simulator_cpu_seconds": (cpu * TICKS).round() / TICKS,
        "calls_per_second": (calls as f64 / seconds).round(),
        "calls_per_second_per_core": (calls as f64 / cpu).round(),
    });
    writeln!(std::io::stdout(), "{result}")?;
    Ok(())
}
