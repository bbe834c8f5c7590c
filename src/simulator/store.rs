//! Which messages exist, who sees them, and is one a repeat? An app's accounts and its conversations, kept by pair of
//! accounts in shards, so that two threads seldom want the same lock. It knows no request and no code but those of
//! revoking.

use std::{
    borrow::Borrow,
    collections::{HashMap, HashSet, hash_map::Entry},
    hash::{Hash, Hasher},
    mem,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use parking_lot::{Mutex, RwLock};
use serde_json::value::RawValue;

/// Shards of accounts and of conversations.
const SHARDS: usize = 64;

/// An account that was named in a call. Whether it exists is not for the store to say.
#[derive(Debug)]
pub(super) struct Account {
    name: Box<str>,
    id: u32,
    /// Its unread messages, over all conversations.
    unread: AtomicU32,
}

impl Account {
    pub(super) const fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn unread(&self) -> u32 {
        self.unread.load(Ordering::Relaxed)
    }
}

/// Finds an account by its name.
#[derive(Debug)]
struct ByName(Arc<Account>);

impl Borrow<str> for ByName {
    fn borrow(&self) -> &str {
        &self.0.name
    }
}

impl Hash for ByName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.name.hash(state);
    }
}

impl PartialEq for ByName {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for ByName {}

/// What a message says; the recipients of a batch share it.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) seq: u32,
    pub(super) random: u32,
    /// `MsgTimeStamp`, Unix seconds.
    pub(super) time: u32,
    /// Of `MsgBody` and `CloudCustomData`.
    pub(super) crc: u32,
    pub(super) body: Box<RawValue>,
    /// `CloudCustomData`, still JSON text.
    pub(super) custom: Option<Box<RawValue>>,
    pub(super) read_receipt: bool,
    pub(super) extension: bool,
}

impl Content {
    /// MsgKey: `MsgSeq_MsgRandom_MsgTime`.
    pub(super) fn key(&self) -> String {
        key(self.seq, self.random, self.time)
    }
}

/// MsgKey of three numbers.
pub(super) fn key(seq: u32, random: u32, time: u32) -> String {
    format!("{seq}_{random}_{time}")
}

/// What is true of a message: one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flags(u8);

impl Flags {
    pub(super) const NONE: Self = Self(0);
    /// Sent by the account with the lower id of the pair.
    const FROM_LOW: Self = Self(1);
    /// In the sender's roaming storage.
    pub(super) const AT_SENDER: Self = Self(1 << 1);
    /// In the recipient's roaming storage.
    pub(super) const AT_RECIPIENT: Self = Self(1 << 2);
    pub(super) const UNREAD: Self = Self(1 << 3);
    pub(super) const REVOKED: Self = Self(1 << 4);
    pub(super) const IMPORTED: Self = Self(1 << 5);
    pub(super) const BATCH: Self = Self(1 << 6);
    /// Was never stored anywhere.
    pub(super) const ONLINE_ONLY: Self = Self(1 << 7);

    pub(super) const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub(super) const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// These flags if the condition holds, else none.
    pub(super) const fn when(self, condition: bool) -> Self {
        if condition { self } else { Self::NONE }
    }
}

/// A message in a conversation.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) content: Arc<Content>,
    /// When it was accepted, in microseconds of the simulator's clock.
    pub(super) at: u64,
    pub(super) flags: Flags,
}

/// Everything between two accounts, in order of `MsgTimeStamp`.
#[derive(Debug)]
pub(super) struct Conversation {
    low: Arc<Account>,
    high: Arc<Account>,
    messages: Vec<Message>,
}

impl Conversation {
    /// Sender and recipient of one of its messages.
    pub(super) fn parties(&self, message: &Message) -> (&Account, &Account) {
        if message.flags.has(Flags::FROM_LOW) {
            (&self.low, &self.high)
        } else {
            (&self.high, &self.low)
        }
    }

    pub(super) fn messages(&self) -> &[Message] {
        &self.messages
    }

    fn insert(&mut self, message: Message) {
        let place = match self.messages.last() {
            Some(last) if last.content.time > message.content.time => self
                .messages
                .partition_point(|other| other.content.time <= message.content.time),
            _ => self.messages.len(),
        };
        self.messages.insert(place, message);
    }

    /// Its messages from `from`, to change.
    fn sent_by(&mut self, from: &Account) -> impl Iterator<Item = &mut Message> {
        let from_low = self.low.id == from.id;
        self.messages
            .iter_mut()
            .filter(move |message| message.flags.has(Flags::FROM_LOW) == from_low)
    }
}

/// What makes a send a repeat: within one conversation and direction, the four documented parts (the sender is in the
/// conversation and direction).
#[derive(Debug, PartialEq, Eq, Hash)]
struct RepeatKey {
    pair: u64,
    from_low: bool,
    seq: u32,
    random: u32,
    crc: u32,
}

/// The sends of the last window, in two generations, so that old ones go without being looked for.
#[derive(Debug, Default)]
struct Recent {
    /// When each was accepted, and the `MsgTime` that it got.
    current: HashMap<RepeatKey, (u64, u32)>,
    previous: HashMap<RepeatKey, (u64, u32)>,
    turned: u64,
}

impl Recent {
    /// The `MsgTime` of an equal send that is less than `window` old; without one, this send is remembered.
    fn seen(&mut self, key: RepeatKey, now: u64, time: u32, window: u64) -> Option<u32> {
        if now.saturating_sub(self.turned) >= window {
            self.previous = mem::take(&mut self.current);
            self.turned = now;
        }
        let young = |&(at, time): &(u64, u32)| (now.saturating_sub(at) < window).then_some(time);
        if let Some(time) = self.previous.get(&key).and_then(young) {
            return Some(time);
        }
        match self.current.entry(key) {
            Entry::Occupied(mut entry) => {
                let seen = young(entry.get());
                if seen.is_none() {
                    entry.insert((now, time));
                }
                seen
            }
            Entry::Vacant(entry) => {
                entry.insert((now, time));
                None
            }
        }
    }
}

/// A shard of the conversations.
#[derive(Debug, Default)]
struct Shard {
    conversations: HashMap<u64, Conversation>,
    recent: Recent,
}

/// Why a message can't be revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotRevoked {
    NotFound,
    Already,
}

/// Counts over everything that was accepted.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) delivered: AtomicU64,
    pub(super) repeats: AtomicU64,
    pub(super) online_only: AtomicU64,
    pub(super) imported: AtomicU64,
    pub(super) import_repeats: AtomicU64,
    pub(super) revoked: AtomicU64,
}

/// An app's accounts and conversations.
#[derive(Debug)]
pub(super) struct Store {
    accounts: [RwLock<HashSet<ByName>>; SHARDS],
    next_id: AtomicU32,
    shards: [Mutex<Shard>; SHARDS],
    pub(super) totals: Totals,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            accounts: std::array::from_fn(|_| RwLock::default()),
            next_id: AtomicU32::new(0),
            shards: std::array::from_fn(|_| Mutex::default()),
            totals: Totals::default(),
        }
    }
}

/// The key of a pair, whatever its order.
fn pair(a: &Account, b: &Account) -> u64 {
    u64::from(a.id.min(b.id)) << 32 | u64::from(a.id.max(b.id))
}

impl Store {
    /// The account of a name.
    pub(super) fn account(&self, name: &str) -> Arc<Account> {
        // FNV-1a: only spreads names over the shards, whose sets hash properly.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let shard = &self.accounts[(hash >> 32) as usize % SHARDS];
        if let Some(found) = shard.read().get(name) {
            return Arc::clone(&found.0);
        }
        let mut shard = shard.write();
        if let Some(found) = shard.get(name) {
            return Arc::clone(&found.0);
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let account = Arc::new(Account {
            name: name.into(),
            id,
            unread: AtomicU32::new(0),
        });
        shard.insert(ByName(Arc::clone(&account)));
        account
    }

    fn shard(&self, pair: u64) -> &Mutex<Shard> {
        // Fibonacci hashing: its upper bits are well mixed.
        &self.shards[(pair.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as usize % SHARDS]
    }

    /// Delivers a message, or answers with the `MsgTime` of the earlier one if it repeats a send of the last `window`
    /// microseconds (0: nothing is a repeat).
    pub(super) fn deliver(
        &self,
        from: &Arc<Account>,
        to: &Arc<Account>,
        message: Message,
        window: u64,
    ) -> Result<(), u32> {
        let pair = pair(from, to);
        let from_low = from.id <= to.id;
        let content = &message.content;
        let mut shard = self.shard(pair).lock();
        if window != 0 {
            let key = RepeatKey {
                pair,
                from_low,
                seq: content.seq,
                random: content.random,
                crc: content.crc,
            };
            if let Some(time) = shard.recent.seen(key, message.at, content.time, window) {
                self.totals.repeats.fetch_add(1, Ordering::Relaxed);
                return Err(time);
            }
        }
        self.totals.delivered.fetch_add(1, Ordering::Relaxed);
        if message.flags.has(Flags::ONLINE_ONLY) {
            self.totals.online_only.fetch_add(1, Ordering::Relaxed);
        }
        Self::put(&mut shard, pair, from, to, message);
        Ok(())
    }

    fn put(shard: &mut Shard, pair: u64, from: &Arc<Account>, to: &Arc<Account>, mut message: Message) {
        if message.flags.has(Flags::UNREAD) {
            to.unread.fetch_add(1, Ordering::Relaxed);
        }
        let (low, high) = if from.id <= to.id { (from, to) } else { (to, from) };
        message.flags = message.flags.with(Flags::FROM_LOW.when(from.id <= to.id));
        shard
            .conversations
            .entry(pair)
            .or_insert_with(|| Conversation {
                low: Arc::clone(low),
                high: Arc::clone(high),
                messages: Vec::new(),
            })
            .insert(message);
    }

    /// Imports a message unless the conversation has an imported one with the same MsgSeq, MsgRandom and `MsgTimeStamp`,
    /// whatever its direction and content.
    pub(super) fn import(&self, from: &Arc<Account>, to: &Arc<Account>, message: Message) {
        let pair = pair(from, to);
        let mut shard = self.shard(pair).lock();
        let Content { seq, random, time, .. } = *message.content;
        let known = shard.conversations.get(&pair).is_some_and(|conversation| {
            let first = conversation.messages.partition_point(|other| other.content.time < time);
            conversation.messages[first..]
                .iter()
                .take_while(|other| other.content.time == time)
                .any(|other| {
                    other.flags.has(Flags::IMPORTED) && (other.content.seq, other.content.random) == (seq, random)
                })
        });
        let total = if known {
            &self.totals.import_repeats
        } else {
            &self.totals.imported
        };
        total.fetch_add(1, Ordering::Relaxed);
        if !known {
            Self::put(&mut shard, pair, from, to, message);
        }
    }

    /// Revokes the message of a key that is in the roaming storage of either side and not older than `oldest` (Unix
    /// seconds). What was revoked is no longer unread.
    pub(super) fn revoke(&self, from: &Account, to: &Account, key: &str, oldest: u32) -> Result<(), NotRevoked> {
        let pair = pair(from, to);
        let mut shard = self.shard(pair).lock();
        let conversation = shard.conversations.get_mut(&pair).ok_or(NotRevoked::NotFound)?;
        let mut verdict = NotRevoked::NotFound;
        for message in conversation.sent_by(from) {
            let flags = message.flags;
            if !(flags.has(Flags::AT_SENDER) || flags.has(Flags::AT_RECIPIENT))
                || message.content.time < oldest
                || message.content.key() != key
            {
                continue;
            }
            if flags.has(Flags::REVOKED) {
                verdict = NotRevoked::Already;
                continue;
            }
            if flags.has(Flags::UNREAD) {
                to.unread.fetch_sub(1, Ordering::Relaxed);
            }
            message.flags = flags.without(Flags::UNREAD).with(Flags::REVOKED);
            self.totals.revoked.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        Err(verdict)
    }

    /// Marks as read what `reader` got from `peer` up to and with the Unix second `until`.
    pub(super) fn mark_read(&self, reader: &Account, peer: &Account, until: u32) {
        let pair = pair(reader, peer);
        let mut shard = self.shard(pair).lock();
        let Some(conversation) = shard.conversations.get_mut(&pair) else {
            return;
        };
        for message in conversation.sent_by(peer) {
            if message.content.time <= until && message.flags.has(Flags::UNREAD) {
                message.flags = message.flags.without(Flags::UNREAD);
                reader.unread.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// How many messages from `peer` the owner hasn't read.
    pub(super) fn unread_from(&self, owner: &Account, peer: &Account) -> usize {
        let pair = pair(owner, peer);
        let mut shard = self.shard(pair).lock();
        shard.conversations.get_mut(&pair).map_or(0, |conversation| {
            conversation
                .sent_by(peer)
                .filter(|message| message.flags.has(Flags::UNREAD))
                .count()
        })
    }

    /// Deletes a conversation on one side: the other still sees it.
    pub(super) fn clear_side(&self, owner: &Account, peer: &Account) {
        let pair = pair(owner, peer);
        let mut shard = self.shard(pair).lock();
        let Some(conversation) = shard.conversations.get_mut(&pair) else {
            return;
        };
        for (from, side) in [(owner, Flags::AT_SENDER), (peer, Flags::AT_RECIPIENT)] {
            for message in conversation.sent_by(from) {
                message.flags = message.flags.without(side);
            }
        }
    }

    /// Looks at the conversation of two accounts.
    pub(super) fn with_conversation<T>(
        &self,
        a: &Account,
        b: &Account,
        look: impl FnOnce(&Conversation) -> T,
    ) -> Option<T> {
        let pair = pair(a, b);
        self.shard(pair).lock().conversations.get(&pair).map(look)
    }

    /// Looks at every conversation, shard by shard.
    pub(super) fn each_conversation(&self, mut look: impl FnMut(&Conversation)) {
        for shard in &self.shards {
            shard.lock().conversations.values().for_each(&mut look);
        }
    }

    /// Forgets every message and count.
    pub(super) fn clear(&self) {
        for shard in &self.shards {
            *shard.lock() = Shard::default();
        }
        for accounts in &self.accounts {
            for account in accounts.read().iter() {
                account.0.unread.store(0, Ordering::Relaxed);
            }
        }
        let Totals {
            delivered,
            repeats,
            online_only,
            imported,
            import_repeats,
            revoked,
        } = &self.totals;
        for total in [delivered, repeats, online_only, imported, import_repeats, revoked] {
            total.store(0, Ordering::Relaxed);
        }
    }
}
