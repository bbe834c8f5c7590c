//! Lookups and inserts with tens of millions of rows: by job, by group, by recipient, and the claims that insert.
//!
//! The rows are written set-wise in Postgres, as five weeks of work would have left them: a quarter single sends, the rest
//! members of batches of 500. Then the product's own store is asked, as `status`, `explain`, `verify` and `revoke` ask it.

use std::{
    io::{Seek, Write as _},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use im_dispatcher::{
    domain::{AccountId, AppName, Command, GroupName, JobId, Lane, job::RevokeTarget},
    im::ENCODER_VERSION,
    store::{
        ClaimVerdict, MessagePage, NewClaim, NewRevocation, OutboxEvent, Recorded, Room, SentOutcome, Store,
        StoreOptions, WorkKind,
    },
};
use sqlx::{AssertSqlSafe, PgConnection};

use super::{
    Arguments,
    figures::{Figures, median},
    stage::{Lab, Stage},
};

/// Rows of `messages`.
const ROWS: usize = 20_000_000;
/// Rows of one statement of the generator.
const CHUNK: usize = 400_000;
/// Members of a batch, and of a chunk how many rows are single sends.
const BATCH: usize = 500;
const SINGLES: usize = CHUNK / 4;
/// Jobs of a group: a thousand single sends, or four batches.
const SINGLES_OF_GROUP: usize = 1_000;
const BATCHES_OF_GROUP: usize = 4;
/// How often each lookup is made, each time with another key.
const SAMPLES: usize = 100;
/// Jobs of a claim.
const CLAIM: usize = 100;

pub(crate) async fn measure(lab: &Lab, arguments: &Arguments) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let rows = arguments.jobs_or(ROWS);
    for rows in [0, rows] {
        let stage = Stage::open(lab, Duration::ZERO).await?;
        stage.prepare().await?;
        let chunks = rows / CHUNK;
        let variant = if rows == 0 {
            "empty".to_owned()
        } else {
            format!("{} M rows", rows / 1_000_000)
        };
        let mut database = stage.database().await?;
        if chunks > 0 {
            let began = Instant::now();
            generate(&mut database, chunks).await?;
            say(&format!("{} rows in {:?}", chunks * CHUNK, began.elapsed()))?;
            let bytes: i64 = sqlx::query_scalar("SELECT pg_database_size(current_database())")
                .fetch_one(&mut database)
                .await?;
            figures.add(&variant, "database GiB", bytes as f64 / f64::from(1 << 30));
        }
        let store = |options: StoreOptions| Store::new(&options);
        let url = || stage.database_url.as_str().into();
        let plans = Plans::begin(arguments.postgres_log.as_deref(), &mut database).await?;
        let (worker, tool) = (
            store(StoreOptions::for_worker(url()))?,
            store(StoreOptions::new(url()))?,
        );
        inserts(&worker, &variant, &mut figures).await?;
        if chunks > 0 {
            lookups(&tool, chunks, &variant, &mut figures).await?;
            revocation(&worker, chunks, &variant, &mut figures).await?;
        }
        worker.close().await;
        tool.close().await;
        if chunks > 0 {
            plans.end(&arguments.json.with_extension("plans.txt"))?;
        }
        stage.close().await?;
    }
    Ok(figures)
}

/// Progress of a command of many minutes.
fn say(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stderr(), "{text}")?;
    Ok(())
}

/// Weekly partitions of the past, and the rows.
async fn generate(database: &mut PgConnection, chunks: usize) -> anyhow::Result<()> {
    for week in 1..=5 {
        sqlx::query(AssertSqlSafe(format!(
            "SELECT ensure_partitions(clock_timestamp() - interval '{week} weeks')"
        )))
        .execute(&mut *database)
        .await?;
    }
    sqlx::query("SET synchronous_commit = off")
        .execute(&mut *database)
        .await?;
    let batches = (CHUNK - SINGLES) / BATCH;
    for chunk in 0..chunks {
        // Ids, and so the keys of both tables, in no order of time, as producers' ids are.
        let at = format!("now() - interval '35 days' * (1 - ({chunk} + n / 1000000.0) / {chunks})");
        let single = chunk * SINGLES;
        sqlx::query(AssertSqlSafe(format!(
            "WITH job AS (
                 INSERT INTO jobs (id, created_at, digest, type, app, group_name, lane, owner, state, total)
                 SELECT 'single-' || n + {single}, {at}, sha256(n::text::bytea), 0, 'default',
                        'orders-' || (n + {single}) / {SINGLES_OF_GROUP}, 1, 0, 1, 1
                 FROM generate_series(0, {SINGLES} - 1) AS n
                 RETURNING id, created_at
             )
             INSERT INTO messages (created_at, job_id, idx, from_account, to_account, state, attempts, token, seq, random,
                                   encoder, first_call_at, last_call_at, call_by, msg_key, msg_time, sent_at)
             SELECT created_at, id, 0, 'administrator', 'user_' || abs(hashtext(id)) % 2000000, 3, 1, gen_random_uuid(),
                    1, 2, 1, created_at, created_at, created_at, id || '_1_1700000000', 1700000000, created_at
             FROM job"
        )))
        .execute(&mut *database)
        .await?;
        let batch = chunk * batches;
        sqlx::query(AssertSqlSafe(format!(
            "WITH job AS (
                 INSERT INTO jobs (id, created_at, digest, type, app, group_name, lane, owner, state, total)
                 SELECT 'batch-' || n + {batch}, {at}, sha256(n::text::bytea), 1, 'default',
                        'campaign-' || (n + {batch}) / {BATCHES_OF_GROUP}, 2, 1, 2, {BATCH}
                 FROM generate_series(0, {batches} - 1) AS n
                 RETURNING id, created_at
             )
             INSERT INTO messages (created_at, job_id, idx, from_account, to_account, state, attempts, token, call_id,
                                   first_call_at, last_call_at, call_by, msg_key, msg_time, sent_at)
             SELECT created_at, id, i, 'administrator', 'user_' || abs(hashtext(id || i)) % 2000000, 3, 1,
                    gen_random_uuid(), gen_random_uuid(), created_at, created_at, created_at, id || '_1_1700000000',
                    1700000000, created_at
             FROM job, generate_series(0, {BATCH} - 1) AS i"
        )))
        .execute(&mut *database)
        .await?;
        if chunk % 10 == 9 {
            say(&format!("{} of {} rows", (chunk + 1) * CHUNK, chunks * CHUNK))?;
        }
    }
    for table in ["jobs", "messages"] {
        sqlx::query(AssertSqlSafe(format!("VACUUM (ANALYZE) {table}")))
            .execute(&mut *database)
            .await?;
    }
    sqlx::query("CHECKPOINT").execute(&mut *database).await?;
    Ok(())
}

/// A number that looks drawn, the same in each run.
fn drawn(sample: usize, of: usize) -> usize {
    (sample * 2_654_435_761 + 104_729) % of.max(1)
}

/// Milliseconds of each lookup.
async fn timed(
    figures: &mut Figures,
    variant: &str,
    lookup: impl AsyncFn(usize) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    // Connections and their statements are made first, as in any process that lives.
    for sample in 0..6 {
        lookup(SAMPLES + sample).await?;
    }
    let mut times = Vec::with_capacity(SAMPLES);
    for sample in 0..SAMPLES {
        let began = Instant::now();
        lookup(sample).await?;
        times.push(began.elapsed().as_secs_f64() * 1_000.0);
    }
    figures.add(variant, "median ms", median(&times));
    figures.add(variant, "max ms", times.iter().copied().fold(0.0, f64::max));
    Ok(())
}

async fn lookups(store: &Store, chunks: usize, variant: &str, figures: &mut Figures) -> anyhow::Result<()> {
    let (singles, batches) = (chunks * SINGLES, chunks * (CHUNK - SINGLES) / BATCH);
    let single = |sample| JobId::parse(format!("single-{}", drawn(sample, singles)));
    let batch = |sample| JobId::parse(format!("batch-{}", drawn(sample, batches)));
    let group = |name: &str, sample, of| GroupName::parse(format!("{name}-{}", drawn(sample, of)));
    timed(figures, &format!("{variant}: status of a send"), async |sample| {
        let found = store.job_status(&single(sample)?, &MessagePage::default()).await?;
        found.context("the job").map(drop)
    })
    .await?;
    timed(
        figures,
        &format!("{variant}: status of a batch, 500 messages"),
        async |sample| {
            let found = store.job_status(&batch(sample)?, &MessagePage::default()).await?;
            found.context("the job").map(drop)
        },
    )
    .await?;
    for (name, of) in [
        ("orders", singles / SINGLES_OF_GROUP),
        ("campaign", batches / BATCHES_OF_GROUP),
    ] {
        timed(
            figures,
            &format!("{variant}: status of a group, {name}"),
            async |sample| {
                let found = store.group_status(&group(name, sample, of)?).await?;
                found.context("the group").map(drop)
            },
        )
        .await?;
    }
    timed(figures, &format!("{variant}: explain a send"), async |sample| {
        let found = store.job_facts(&single(sample)?, None).await?;
        found.context("the job").map(drop)
    })
    .await?;
    timed(
        figures,
        &format!("{variant}: a recipient's message by its key"),
        async |sample| {
            let id = format!("single-{}", drawn(sample, singles));
            let sql = "SELECT job_id FROM messages WHERE to_account = 'user_' || abs(hashtext($1)) % 2000000
                   AND from_account = 'administrator' AND msg_key = $1 || '_1_1700000000'";
            let owner: String = sqlx::query_scalar(sql).bind(&id).fetch_one(store.pool()).await?;
            ensure!(owner == id, "{owner} for {id}");
            Ok(())
        },
    )
    .await
}

/// What a claim of a hundred jobs and their outcomes cost.
async fn inserts(store: &Store, variant: &str, figures: &mut Figures) -> anyhow::Result<()> {
    let (mut claims, mut outcomes) = (Vec::new(), Vec::new());
    for round in 0..60 {
        let jobs = (0..CLAIM)
            .map(|number| claim(round * CLAIM + number))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let began = Instant::now();
        let verdicts = store.claim_new(false, &jobs).await?;
        claims.push(began.elapsed().as_secs_f64() * 1e6 / CLAIM as f64);
        let sent = jobs
            .iter()
            .zip(verdicts)
            .map(|(job, verdict)| match verdict {
                ClaimVerdict::Claimed { created_at } => Ok(SentOutcome {
                    id: job.id.clone(),
                    created_at,
                    app: job.app.clone(),
                    group: None,
                    token: job.token,
                    msg_key: format!("{}_{}_1700000000", job.seq, job.random),
                    msg_time: Some(1_700_000_000),
                }),
                other => anyhow::bail!("{other:?}"),
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        let began = Instant::now();
        let recorded = store.record_sent(false, &sent).await?;
        outcomes.push(began.elapsed().as_secs_f64() * 1e6 / CLAIM as f64);
        ensure!(
            recorded.iter().all(|one| matches!(one, Recorded::Applied { .. })),
            "an outcome"
        );
    }
    figures.add(&format!("{variant}: inserts"), "claim µs/job", median(&claims));
    figures.add(&format!("{variant}: inserts"), "outcome µs/job", median(&outcomes));
    Ok(())
}

fn claim(number: usize) -> anyhow::Result<NewClaim> {
    Ok(NewClaim {
        id: JobId::parse(format!("new-{}", drawn(number, 100_000_007)))?,
        digest: [7; 32],
        job_type: 0,
        app: AppName::default_app(),
        group: None,
        lane: Lane::Normal,
        from: AccountId::parse("administrator")?,
        to: AccountId::parse(format!("user_{}", drawn(number, 2_000_000)))?,
        send_at: None,
        expires_at: None,
        on_unknown: 0,
        seq: number as u32,
        random: number as u32,
        encoder: ENCODER_VERSION,
        token: uuid::Uuid::from_u128(number as u128 + 1),
        expired: false,
        online_only: false,
    })
}

/// A campaign's revocation: its tombstone, and the step that selects and marks its messages.
async fn revocation(store: &Store, chunks: usize, variant: &str, figures: &mut Figures) -> anyhow::Result<()> {
    let groups = chunks * (CHUNK - SINGLES) / BATCH / BATCHES_OF_GROUP;
    let (mut tombstones, mut take_times, mut steps, mut reads) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let room = |rows| Room {
        command: Command::MsgWithdraw,
        app: AppName::default_app(),
        lane: Lane::Normal,
        rows,
    };
    for sample in 0..20 {
        let id = JobId::parse(format!("revoke-{sample}"))?;
        let target = RevokeTarget::Group(GroupName::parse(format!("campaign-{}", drawn(sample, groups)))?);
        let began = Instant::now();
        store
            .add_revocation(&NewRevocation {
                id: &id,
                digest: [1; 32],
                app: &AppName::default_app(),
                group: None,
                lane: Lane::Normal,
                target: &target,
                reply_to: None,
                correlation_id: None,
            })
            .await?;
        tombstones.push(began.elapsed().as_secs_f64() * 1_000.0);
        let began = Instant::now();
        let taken = store.take_work(&[room(1_000)], Duration::from_mins(1)).await?;
        take_times.push(began.elapsed().as_secs_f64() * 1_000.0);
        let fan_out = taken
            .iter()
            .find(|unit| unit.kind == WorkKind::FanOut)
            .context("the fan-out")?;
        let began = Instant::now();
        store.fan_out(fan_out, |_| never()).await?;
        steps.push(began.elapsed().as_secs_f64() * 1_000.0);
        let revokes = store.take_work(&[room(256)], Duration::from_mins(1)).await?;
        let began = Instant::now();
        let messages = store.revocable(&revokes).await?;
        reads.push(began.elapsed().as_secs_f64() * 1_000.0);
        ensure!(
            messages.len() == revokes.len() && !messages.is_empty(),
            "messages to revoke"
        );
    }
    for (name, times) in [
        ("tombstone of a group", tombstones),
        ("take due work", take_times),
        ("fan-out of 1,000 messages", steps),
        ("read 256 to revoke", reads),
    ] {
        let variant = format!("{variant}: {name}");
        figures.add(&variant, "median ms", median(&times));
        figures.add(&variant, "max ms", times.iter().copied().fold(0.0, f64::max));
    }
    Ok(())
}

/// Nothing of a campaign that was sent is cancelled.
fn never() -> OutboxEvent {
    unreachable!("every message of the campaign was sent")
}

/// The plans of every statement, by `auto_explain`, from Postgres's own log.
struct Plans(Option<std::fs::File>);

impl Plans {
    async fn begin(log: Option<&Path>, database: &mut PgConnection) -> anyhow::Result<Self> {
        let Some(log) = log else { return Ok(Self(None)) };
        let name: String = sqlx::query_scalar("SELECT current_database()")
            .fetch_one(&mut *database)
            .await?;
        for setting in [
            "session_preload_libraries = 'auto_explain'",
            "auto_explain.log_min_duration = 0",
            "auto_explain.log_analyze = on",
            "auto_explain.log_buffers = on",
        ] {
            sqlx::query(AssertSqlSafe(format!("ALTER DATABASE {name} SET {setting}")))
                .execute(&mut *database)
                .await?;
        }
        let mut file = std::fs::File::open(log)?;
        file.seek(std::io::SeekFrom::End(0))?;
        Ok(Self(Some(file)))
    }

    fn end(self, to: &Path) -> anyhow::Result<()> {
        let Some(mut log) = self.0 else { return Ok(()) };
        let mut plans = std::fs::File::create(to)?;
        std::io::copy(&mut log, &mut plans)?;
        plans.flush()?;
        say(&format!("plans: {}", to.display()))
    }
}
