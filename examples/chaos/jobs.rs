//! Which jobs are there, and what has to become of each: drawn from a seed, kept for the check at the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};

/// What a job is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// One message to one recipient.
    Send,
    /// One message to many.
    Batch,
    /// A message that somebody else had sent.
    Import,
    /// A body that is no job: it must lie in the dead queue with its reason.
    Invalid,
}

/// A job that a producer published, and what may become of it.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    /// What it is for.
    pub(crate) kind: Kind,
    /// Its recipients.
    pub(crate) to: BTreeSet<String>,
    /// What its messages say, by which the service's are told apart; `None`: its id.
    pub(crate) text: Option<String>,
    /// Its label.
    pub(crate) group: Option<String>,
    /// Whether its time may be over before it is sent.
    pub(crate) may_expire: bool,
    /// Whether nobody can tell if it was sent when its answer is lost: online-only, with `on_unknown` fail.
    pub(crate) may_be_unknown: bool,
}

impl Expected {
    /// To these, and nothing more is to be said of it.
    pub(crate) fn of(kind: Kind, to: BTreeSet<String>) -> Self {
        Self {
            kind,
            to,
            text: None,
            group: None,
            may_expire: false,
            may_be_unknown: false,
        }
    }
}

/// What a revoke job is aimed at.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// A whole job.
    Job(String),
    /// Some recipients of one.
    Some(String, BTreeSet<String>),
    /// A group.
    Group(String),
    /// One message by its key, of this job.
    Key(String),
}

/// Everything that was published.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    jobs: BTreeMap<String, Expected>,
    revocations: BTreeMap<String, Target>,
    confirmed: BTreeSet<String>,
    publications: u64,
}

impl Ledger {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Notes that the broker confirmed and routed a publication: from now on its job may not be lost.
    pub(crate) fn confirm(&self, id: &str) {
        let mut state = self.lock();
        state.confirmed.insert(id.to_owned());
        state.publications += 1;
    }

    /// Notes what has to become of a job.
    pub(crate) fn expect(&self, id: &str, expected: Expected) {
        self.lock().jobs.insert(id.to_owned(), expected);
    }

    fn revoke(&self, id: &str, target: Target) {
        self.lock().revocations.insert(id.to_owned(), target);
    }

    /// The jobs whose publication was confirmed, revocations apart.
    pub(crate) fn jobs(&self) -> BTreeMap<String, Expected> {
        let state = self.lock();
        let confirmed = |id: &str| state.confirmed.contains(id);
        let jobs = state.jobs.iter().filter(|(id, _)| confirmed(id));
        jobs.map(|(id, job)| (id.clone(), job.clone())).collect()
    }

    /// The revocations whose publication was confirmed.
    pub(crate) fn revocations(&self) -> BTreeMap<String, Target> {
        let state = self.lock();
        let confirmed = |id: &str| state.confirmed.contains(id);
        let all = state.revocations.iter().filter(|(id, _)| confirmed(id));
        all.map(|(id, target)| (id.clone(), target.clone())).collect()
    }

    /// How many publications were confirmed, and how many different ids they had.
    pub(crate) fn published(&self) -> (u64, usize) {
        let state = self.lock();
        (state.publications, state.confirmed.len())
    }
}

/// One message to the broker.
#[derive(Debug, Clone)]
pub(crate) struct Publication {
    /// How long from now.
    pub(crate) after: Duration,
    /// The routing key.
    pub(crate) lane: &'static str,
    /// The job's id; of an invalid body a name for it.
    pub(crate) id: String,
    /// The body; `None`: a revocation by the key that an event of this job tells.
    pub(crate) body: Option<Vec<u8>>,
    /// The job whose key is needed.
    pub(crate) key_of: Option<String>,
}

/// Draws jobs.
#[derive(Debug)]
pub(crate) struct Draw {
    random: StdRng,
    seed: u64,
    count: u64,
}

impl Draw {
    /// The jobs of a seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            seed,
            count: 0,
        }
    }

    /// The next job, with its repeats and its revocation.
    pub(crate) fn next(&mut self, ledger: &Ledger) -> Vec<Publication> {
        // Of 1,000: what isn't listed is a plain send.
        match self.random.random_range(0..1_000) {
            560..570 => vec![self.windowed(ledger)],
            570..640 => {
                let at = self.soon(500, 12_000);
                vec![self.send(ledger, Some(("send_at", at)), None)]
            }
            640..700 => {
                let at = self.soon(100, 3_000);
                vec![self.send(ledger, Some(("expires_at", at)), None)]
            }
            700..760 => self.repeated(ledger),
            760..800 => vec![self.import(ledger)],
            800..900 => self.revoked(ledger),
            900..950 => self.revoked_by_key(ledger),
            950..958 => self.group(ledger),
            958..970 => self.batch(ledger),
            970..977 => vec![self.invalid(ledger)],
            977..980 => self.mergeable(ledger),
            980..990 => vec![self.online_only(ledger)],
            _ => vec![self.send(ledger, None, None)],
        }
    }

    fn id(&mut self, word: &str) -> String {
        self.count += 1;
        format!("{word}-{}-{:06}", self.seed, self.count)
    }

    fn soon(&mut self, from: i64, to: i64) -> DateTime<Utc> {
        Utc::now() + TimeDelta::milliseconds(self.random.random_range(from..to))
    }

    fn lane(&mut self) -> &'static str {
        ["high", "normal", "normal", "bulk"]
            .choose(&mut self.random)
            .copied()
            .unwrap_or("normal")
    }

    fn recipient(&mut self) -> String {
        if self.random.random_bool(0.02) {
            format!("unknown_{}", self.random.random_range(0..100))
        } else {
            format!("user_{}", self.random.random_range(0..1_000))
        }
    }

    /// Who sends; without one it is the administrator.
    fn sender(&mut self, job: &mut Value) {
        let sender = ["shop", "bank", "news", ""].choose(&mut self.random).copied();
        if let Some(sender) = sender.filter(|sender| !sender.is_empty()) {
            job["from"] = json!(sender);
        }
    }

    fn publication(id: &str, lane: &'static str, job: &Value) -> Publication {
        Publication {
            after: Duration::ZERO,
            lane,
            id: id.to_owned(),
            body: Some(job.to_string().into_bytes()),
            key_of: None,
        }
    }

    fn send(&mut self, ledger: &Ledger, time: Option<(&str, DateTime<Utc>)>, group: Option<&str>) -> Publication {
        let (id, to, lane) = (self.id("send"), self.recipient(), self.lane());
        // The text names the job, so that what the service has can be told apart.
        let mut job = json!({"type": "send", "id": id, "to": to, "message": {"text": id}});
        self.sender(&mut job);
        if let Some((field, at)) = time {
            job[field] = json!(at.to_rfc3339());
        }
        if let Some(group) = group {
            job["group"] = json!(group);
        }
        let expected = Expected {
            group: group.map(str::to_owned),
            may_expire: time.is_some_and(|(field, _)| field == "expires_at"),
            ..Expected::of(Kind::Send, [to].into())
        };
        ledger.expect(&id, expected);
        Self::publication(&id, lane, &job)
    }

    /// The same job again: at once, by a producer that lost its confirm, or seconds later.
    fn repeated(&mut self, ledger: &Ledger) -> Vec<Publication> {
        let first = self.send(ledger, None, None);
        let mut all = vec![first.clone()];
        let at_once = self.random.random_bool(0.5);
        for _ in 0..self.random.random_range(1..6) {
            let mut again = first.clone();
            if !at_once {
                again.after = self.within(6_000);
            }
            all.push(again);
        }
        all
    }

    fn within(&mut self, milliseconds: u64) -> Duration {
        Duration::from_millis(self.random.random_range(0..milliseconds))
    }

    fn import(&mut self, ledger: &Ledger) -> Publication {
        let (id, lane) = (self.id("import"), self.lane());
        let to = format!("user_{}", self.random.random_range(0..1_000));
        let timestamp = Utc::now().timestamp() - self.random.random_range(0..100_000_i64);
        let unread = self.random.random_bool(0.5);
        let job = json!({"type": "import", "id": id, "from": "shop", "to": to, "timestamp": timestamp, "unread": unread,
                         "message": {"text": id}});
        let expected = Expected::of(Kind::Import, [to].into());
        ledger.expect(&id, expected);
        Self::publication(&id, lane, &job)
    }

    /// A revocation that overtakes its target or comes after it.
    fn with_revocation(&mut self, ledger: &Ledger, target: Target, mut sends: Vec<Publication>) -> Vec<Publication> {
        let id = self.id("revoke");
        let aim = match &target {
            Target::Job(job) => json!({"job": job}),
            Target::Some(job, to) => json!({"job": job, "to": to}),
            Target::Group(group) => json!({"group": group}),
            Target::Key(_) => Value::Null,
        };
        ledger.revoke(&id, target);
        let mut revoke = Self::publication(&id, "high", &json!({"type": "revoke", "id": id, "target": aim}));
        if self.random.random_bool(0.3) {
            for send in &mut sends {
                send.after += self.within(2_000);
            }
        } else {
            revoke.after = self.within(8_000);
        }
        sends.push(revoke);
        sends
    }

    fn revoked(&mut self, ledger: &Ledger) -> Vec<Publication> {
        let time = self.random.random_bool(0.2).then(|| ("send_at", self.soon(500, 8_000)));
        let send = self.send(ledger, time, None);
        let target = Target::Job(send.id.clone());
        if self.random.random_bool(0.2) {
            // Twice, by two jobs.
            let all = self.with_revocation(ledger, target.clone(), vec![send]);
            return self.with_revocation(ledger, target, all);
        }
        self.with_revocation(ledger, target, vec![send])
    }

    /// Sends of one content that may share calls; some are revoked while they wait, or later.
    fn mergeable(&mut self, ledger: &Ledger) -> Vec<Publication> {
        let text = self.id("shared");
        let group = self.random.random_bool(0.5).then(|| self.id("group"));
        let mut all = Vec::new();
        let mut to = BTreeSet::new();
        while to.len() < 80 {
            to.insert(self.recipient());
        }
        for to in to {
            let id = self.id("merged");
            let mut job = json!({"type": "send", "id": id, "from": "shop", "to": to, "coalesce": true,
                                 "message": {"text": text}});
            if let Some(group) = &group {
                job["group"] = json!(group);
            }
            let expected = Expected {
                text: Some(text.clone()),
                group: group.clone(),
                ..Expected::of(Kind::Send, [to].into())
            };
            ledger.expect(&id, expected);
            let send = Self::publication(&id, "bulk", &job);
            if self.random.random_bool(0.05) {
                all.extend(self.with_revocation(ledger, Target::Job(id), vec![send]));
            } else {
                all.push(send);
            }
        }
        match group {
            Some(group) if self.random.random_bool(0.5) => self.with_revocation(ledger, Target::Group(group), all),
            _ => all,
        }
    }

    /// A send that waits for its window, which opens within a minute.
    fn windowed(&mut self, ledger: &Ledger) -> Publication {
        let (id, to, lane) = (self.id("window"), self.recipient(), self.lane());
        let opening = Utc::now() + TimeDelta::minutes(1);
        let window = json!({"start": opening.format("%H:%M").to_string(),
                            "end": (opening + TimeDelta::hours(10)).format("%H:%M").to_string(), "timezone": "UTC"});
        let mut job = json!({"type": "send", "id": id, "to": to, "send_window": window, "message": {"text": id}});
        self.sender(&mut job);
        let expected = Expected::of(Kind::Send, [to].into());
        ledger.expect(&id, expected);
        Self::publication(&id, lane, &job)
    }

    /// Stored nowhere, so that a lost answer stays unknown: the job asks to fail then.
    fn online_only(&mut self, ledger: &Ledger) -> Publication {
        let (id, lane) = (self.id("online"), self.lane());
        let to = format!("user_{}", self.random.random_range(0..1_000));
        let job = json!({"type": "send", "id": id, "to": to, "on_unknown": "fail",
                         "message": {"text": id, "life_time": 0}});
        let expected = Expected {
            may_be_unknown: true,
            ..Expected::of(Kind::Send, [to].into())
        };
        ledger.expect(&id, expected);
        Self::publication(&id, lane, &job)
    }

    fn revoked_by_key(&mut self, ledger: &Ledger) -> Vec<Publication> {
        let send = self.send(ledger, None, None);
        let id = self.id("revoke");
        ledger.revoke(&id, Target::Key(send.id.clone()));
        let revoke = Publication {
            after: Duration::from_millis(500) + self.within(4_000),
            lane: "high",
            id,
            body: None,
            key_of: Some(send.id.clone()),
        };
        vec![send, revoke]
    }

    fn group(&mut self, ledger: &Ledger) -> Vec<Publication> {
        let group = self.id("group");
        let mut sends: Vec<Publication> = (0..6).map(|_| self.send(ledger, None, Some(&group))).collect();
        sends.push(self.one_batch(ledger, 150, Some(&group)).0);
        self.with_revocation(ledger, Target::Group(group), sends)
    }

    fn batch(&mut self, ledger: &Ledger) -> Vec<Publication> {
        let size = self.random.random_range(100..700);
        let (batch, to) = self.one_batch(ledger, size, None);
        match self.random.random_range(0..100) {
            0..20 => {
                let target = Target::Job(batch.id.clone());
                self.with_revocation(ledger, target, vec![batch])
            }
            20..40 => {
                let some = to.into_iter().take(30).collect();
                let target = Target::Some(batch.id.clone(), some);
                self.with_revocation(ledger, target, vec![batch])
            }
            _ => vec![batch],
        }
    }

    fn one_batch(&mut self, ledger: &Ledger, size: usize, group: Option<&str>) -> (Publication, BTreeSet<String>) {
        let (id, lane) = (self.id("batch"), self.lane());
        let mut to = BTreeSet::new();
        while to.len() < size {
            to.insert(self.recipient());
        }
        let mut job = json!({"type": "batch_send", "id": id, "to": to, "message": {"text": id}});
        self.sender(&mut job);
        if let Some(group) = group {
            job["group"] = json!(group);
        }
        let expected = Expected {
            group: group.map(str::to_owned),
            ..Expected::of(Kind::Batch, to.clone())
        };
        ledger.expect(&id, expected);
        (Self::publication(&id, lane, &job), to)
    }

    fn invalid(&mut self, ledger: &Ledger) -> Publication {
        let (id, lane) = (self.id("invalid"), self.lane());
        let body = if self.random.random_bool(0.5) {
            format!("{{\"type\": \"send\", \"id\": \"{id}\"")
        } else {
            json!({"type": "send", "id": id, "too": "user_1", "message": {"text": id}}).to_string()
        };
        let expected = Expected::of(Kind::Invalid, BTreeSet::new());
        ledger.expect(&id, expected);
        Publication {
            after: Duration::ZERO,
            lane,
            id,
            body: Some(body.into_bytes()),
            key_of: None,
        }
    }
}
