//! Who is next? High first; normal and bulk with guaranteed floors; by turns across groups; in a group, first come first.
//!
//! It knows what waits in this process, so it is fair among that: what still lies in the broker's queues has no turn.
//! It doesn't know when the next slot is, nor what a waiter is.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::Nanos;
use crate::domain::{GroupName, Lane};

/// A share of one, in the unit of [`Line::credit`].
const WHOLE: u64 = 1_000_000;

/// Where somebody waits, to leave the line again.
#[derive(Debug, Clone)]
pub(super) struct Ticket {
    lane: Lane,
    seat: Seat,
    number: u64,
}

/// The line within a lane.
#[derive(Debug, Clone)]
enum Seat {
    /// Before all groups: it had a slot already.
    Retry,
    Group(Option<GroupName>),
}

/// Somebody who waits.
#[derive(Debug)]
pub(super) struct Waiter<T> {
    /// What it waits with.
    pub(super) payload: T,
    /// How many recipients its call has; 0 where they don't count.
    pub(super) recipients: u32,
    /// Since when.
    pub(super) since: Nanos,
}

impl<T> Waiter<T> {
    /// How much of a lane's share it takes.
    fn weight(&self) -> u64 {
        u64::from(self.recipients.max(1))
    }
}

/// Who goes next, before it is known whether there is a slot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Next {
    /// Its lane.
    pub(super) lane: Lane,
    /// It goes because its lane is behind its floor.
    pub(super) owed: bool,
    /// How many recipients its call has.
    pub(super) recipients: u32,
    /// Since when it waits.
    pub(super) since: Nanos,
}

/// One lane.
#[derive(Debug)]
struct Line<T> {
    retries: BTreeMap<u64, Waiter<T>>,
    groups: HashMap<Option<GroupName>, BTreeMap<u64, Waiter<T>>>,
    /// Groups with somebody waiting, in the order of their turns.
    turns: VecDeque<Option<GroupName>>,
    waiting: usize,
    /// The share that the lane is guaranteed, in [`WHOLE`].
    floor: u64,
    /// What the lane has a right to, in weight times [`WHOLE`]; grows only while it waits.
    credit: u64,
}

impl<T> Line<T> {
    fn new(floor: f64) -> Self {
        Self {
            retries: BTreeMap::new(),
            groups: HashMap::new(),
            turns: VecDeque::new(),
            waiting: 0,
            floor: (floor.clamp(0.0, 1.0) * WHOLE as f64) as u64,
            credit: 0,
        }
    }

    fn first(&self) -> Option<&Waiter<T>> {
        if let Some((_, waiter)) = self.retries.first_key_value() {
            return Some(waiter);
        }
        let group = self.groups.get(self.turns.front()?)?;
        group.first_key_value().map(|(_, waiter)| waiter)
    }

    /// By how much the lane is behind its floor, if by enough for the next waiter.
    fn owed(&self) -> Option<u64> {
        let weight = self.first()?.weight();
        self.credit.checked_sub(weight * WHOLE).filter(|_| self.floor > 0)
    }

    fn push(&mut self, seat: &Seat, number: u64, waiter: Waiter<T>) {
        self.waiting += 1;
        match seat {
            Seat::Retry => {
                self.retries.insert(number, waiter);
            }
            Seat::Group(group) => {
                let waiters = self.groups.entry(group.clone()).or_insert_with(|| {
                    self.turns.push_back(group.clone());
                    BTreeMap::new()
                });
                waiters.insert(number, waiter);
            }
        }
    }

    fn pop(&mut self) -> Option<Waiter<T>> {
        if let Some((_, waiter)) = self.retries.pop_first() {
            self.waiting -= 1;
            return Some(waiter);
        }
        let group = self.turns.pop_front()?;
        let waiters = self.groups.get_mut(&group)?;
        let (_, waiter) = waiters.pop_first()?;
        self.waiting -= 1;
        if waiters.is_empty() {
            self.groups.remove(&group);
        } else {
            self.turns.push_back(group);
        }
        Some(waiter)
    }

    fn remove(&mut self, seat: &Seat, number: u64) -> Option<Waiter<T>> {
        let waiter = match seat {
            Seat::Retry => self.retries.remove(&number)?,
            Seat::Group(group) => {
                let waiters = self.groups.get_mut(group)?;
                let waiter = waiters.remove(&number)?;
                if waiters.is_empty() {
                    self.groups.remove(group);
                    self.turns.retain(|turn| turn != group);
                }
                waiter
            }
        };
        self.waiting -= 1;
        Some(waiter)
    }

    fn oldest(&self) -> Option<Nanos> {
        let groups = self.groups.values().filter_map(BTreeMap::first_key_value);
        let all = self.retries.first_key_value().into_iter().chain(groups);
        all.map(|(_, waiter)| waiter.since).min()
    }
}

/// Everybody who waits for a slot of one key.
#[derive(Debug)]
pub(super) struct Lanes<T> {
    lines: [Line<T>; 3],
    number: u64,
}

impl<T> Lanes<T> {
    /// Nobody waits; `floors` are the guaranteed shares by [`Lane::index`].
    pub(super) fn new(floors: [f64; 3]) -> Self {
        Self {
            lines: floors.map(Line::new),
            number: 0,
        }
    }

    /// How many wait, by [`Lane::index`].
    pub(super) fn waiting(&self) -> [usize; 3] {
        [0, 1, 2].map(|index: usize| self.lines[index].waiting)
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting() == [0; 3]
    }

    /// Whether nobody waits who would go before somebody of this lane who came now.
    pub(super) fn is_free(&self, lane: Lane) -> bool {
        self.lines[..=lane.index()].iter().all(|line| line.waiting == 0) && self.owed().is_none()
    }

    /// Since when the one waits who has waited longest, by [`Lane::index`].
    pub(super) fn oldest(&self) -> [Option<Nanos>; 3] {
        [0, 1, 2].map(|index: usize| self.lines[index].oldest())
    }

    /// Queues somebody: a retry before everybody else in its lane.
    pub(super) fn push(&mut self, lane: Lane, group: Option<GroupName>, retry: bool, waiter: Waiter<T>) -> Ticket {
        self.number += 1;
        let number = self.number;
        let seat = if retry { Seat::Retry } else { Seat::Group(group) };
        self.lines[lane.index()].push(&seat, number, waiter);
        Ticket { lane, seat, number }
    }

    /// Leaves the line; `None` if it was served already.
    pub(super) fn remove(&mut self, ticket: &Ticket) -> Option<Waiter<T>> {
        self.lines[ticket.lane.index()].remove(&ticket.seat, ticket.number)
    }

    /// The lane that is furthest behind its floor.
    fn owed(&self) -> Option<Lane> {
        let owed = Lane::ALL.map(|lane| self.lines[lane.index()].owed().map(|credit| (credit, lane)));
        owed.into_iter()
            .flatten()
            .max_by_key(|&(credit, _)| credit)
            .map(|(_, lane)| lane)
    }

    /// Who goes next: of a lane behind its floor, else of the most urgent.
    pub(super) fn next(&self) -> Option<Next> {
        match self.owed() {
            Some(lane) => self.first(lane, true),
            None => self.most_urgent(),
        }
    }

    /// Who goes next whatever the floors.
    pub(super) fn most_urgent(&self) -> Option<Next> {
        let lane = Lane::ALL
            .into_iter()
            .find(|lane| self.lines[lane.index()].waiting > 0)?;
        self.first(lane, false)
    }

    fn first(&self, lane: Lane, owed: bool) -> Option<Next> {
        self.lines[lane.index()].first().map(|waiter| Next {
            lane,
            owed,
            recipients: waiter.recipients,
            since: waiter.since,
        })
    }

    /// Takes the next of a lane out of the line; the share of the lanes is to be counted with [`Lanes::count`].
    pub(super) fn pop(&mut self, lane: Lane) -> Option<Waiter<T>> {
        self.lines[lane.index()].pop()
    }

    /// Counts a slot that a lane got towards the shares of all that wait.
    pub(super) fn count(&mut self, lane: Lane, recipients: u32) {
        let weight = u64::from(recipients.max(1));
        for (index, line) in self.lines.iter_mut().enumerate() {
            if line.waiting > 0 || index == lane.index() {
                line.credit += line.floor * weight;
            }
            if index == lane.index() {
                line.credit = line.credit.saturating_sub(weight * WHOLE);
            }
        }
    }
}

impl<T> Lanes<T> {
    /// A slot that a lane got by its floor was not used: the lane is owed it still.
    pub(super) fn give_back(&mut self, lane: Lane, recipients: u32) {
        self.lines[lane.index()].credit += u64::from(recipients.max(1)) * WHOLE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiter(payload: &'static str) -> Waiter<&'static str> {
        Waiter {
            payload,
            recipients: 0,
            since: 0,
        }
    }

    fn group(name: &str) -> Option<GroupName> {
        GroupName::parse(name).ok()
    }

    fn serve(lanes: &mut Lanes<&'static str>) -> Option<&'static str> {
        let next = lanes.next()?;
        let waiter = lanes.pop(next.lane)?;
        lanes.count(next.lane, next.recipients);
        Some(waiter.payload)
    }

    #[test]
    fn groups_take_turns_and_each_is_first_come_first_served() {
        let mut lanes = Lanes::new([0.0; 3]);
        for name in ["a1", "a2", "a3"] {
            lanes.push(Lane::Bulk, group("a"), false, waiter(name));
        }
        lanes.push(Lane::Bulk, group("b"), false, waiter("b1"));
        lanes.push(Lane::Bulk, None, false, waiter("n1"));
        lanes.push(Lane::Bulk, None, false, waiter("n2"));
        lanes.push(Lane::Bulk, group("a"), true, waiter("retry"));
        let order: Vec<_> = std::iter::from_fn(|| serve(&mut lanes)).collect();
        assert_eq!(order, ["retry", "a1", "b1", "n1", "a2", "n2", "a3"]);
        assert!(lanes.is_empty());
    }

    #[test]
    fn high_goes_first_and_the_others_get_their_floors_and_no_more() {
        let mut lanes = Lanes::new([0.0, 0.2, 0.1]);
        let mut counts = [0; 3];
        for _ in 0..3 {
            lanes.push(Lane::High, None, false, waiter("high"));
            lanes.push(Lane::Normal, None, false, waiter("normal"));
            lanes.push(Lane::Bulk, None, false, waiter("bulk"));
        }
        for _ in 0..1_000 {
            let next = lanes.next().unwrap();
            counts[next.lane.index()] += 1;
            let waiter = lanes.pop(next.lane).unwrap();
            lanes.count(next.lane, 0);
            lanes.push(next.lane, None, false, waiter);
        }
        assert_eq!(counts, [702, 199, 99], "the next two slots are theirs");
    }

    #[test]
    fn a_lane_that_did_not_wait_has_saved_nothing_up() {
        let mut lanes = Lanes::new([0.0, 0.0, 0.5]);
        for _ in 0..100 {
            lanes.push(Lane::High, None, false, waiter("high"));
            assert_eq!(serve(&mut lanes), Some("high"));
        }
        lanes.push(Lane::Bulk, None, false, waiter("bulk"));
        lanes.push(Lane::High, None, false, waiter("high"));
        assert_eq!(serve(&mut lanes), Some("high"));
    }

    #[test]
    fn who_leaves_the_line_is_not_served_and_its_group_loses_its_turn() {
        let mut lanes = Lanes::new([0.0; 3]);
        let ticket = lanes.push(Lane::Normal, group("a"), false, waiter("a1"));
        lanes.push(Lane::Normal, group("b"), false, waiter("b1"));
        assert!(lanes.remove(&ticket).is_some());
        assert!(lanes.remove(&ticket).is_none());
        assert_eq!(lanes.waiting(), [0, 1, 0]);
        assert_eq!(serve(&mut lanes), Some("b1"));
        assert_eq!(serve(&mut lanes), None);
    }

    #[test]
    fn a_lanes_share_is_counted_in_recipients_where_they_count() {
        let mut lanes = Lanes::new([0.0, 0.0, 0.1]);
        let batch = |recipients| Waiter {
            payload: "",
            recipients,
            since: 0,
        };
        let mut recipients = [0; 3];
        lanes.push(Lane::High, None, false, batch(37));
        lanes.push(Lane::Bulk, None, false, batch(500));
        for _ in 0..10_000 {
            let next = lanes.next().unwrap();
            recipients[next.lane.index()] += next.recipients;
            let waiter = lanes.pop(next.lane).unwrap();
            lanes.count(next.lane, next.recipients);
            lanes.push(next.lane, None, false, waiter);
        }
        let share = f64::from(recipients[2]) / f64::from(recipients[0] + recipients[2]);
        assert!((0.095..=0.105).contains(&share), "{share}");
    }
}
