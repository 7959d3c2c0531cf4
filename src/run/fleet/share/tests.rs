//! Readers that look, claim and give up in any order, over a table of leases as the store keeps it.

use proptest::prelude::*;

use super::*;

/// One reader, with what it saw last.
#[derive(Clone, Default)]
struct Worker {
    /// `None` while it does not run; another one with every start.
    id: Option<Uuid>,
    saw: Readers,
    /// What it has told its source to let go of.
    leaving: BTreeSet<u32>,
}

/// A topic among readers.
struct Table {
    partitions: u32,
    /// What the store has: claims are atomic there.
    leases: Readers,
    workers: Vec<Worker>,
    /// Those that died and whose leases have not ended.
    dead: Vec<Uuid>,
    starts: u32,
    moves: usize,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Join(usize),
    Die(usize),
    /// The lease of somebody dead ends that says that he reads the topic.
    Fade(usize),
    /// Those of his partitions end.
    Free(usize),
    Look(usize),
    Act(usize),
    LetGo(usize),
}

impl Table {
    fn new(partitions: u32, workers: usize) -> Self {
        let workers = vec![Worker::default(); workers];
        Self { partitions, leases: Readers::default(), workers, dead: Vec::new(), starts: 0, moves: 0 }
    }

    fn is_up(&self, worker: usize) -> bool {
        self.workers[worker].id.is_some()
    }

    fn own(&self, worker: usize) -> BTreeSet<u32> {
        let own = self.leases.held.iter().filter(|(_, holder)| Some(**holder) == self.workers[worker].id);
        own.map(|(partition, _)| *partition).collect()
    }

    fn step(&mut self, step: Step) {
        match (step, self.dead.len()) {
            (Step::Join(at), _) if !self.is_up(at) => {
                self.starts += 1;
                let id = Uuid::new_v5(&Uuid::NAMESPACE_OID, &self.starts.to_be_bytes());
                self.workers[at] = Worker { id: Some(id), ..Worker::default() };
            }
            (Step::Die(at), _) => self.dead.extend(std::mem::take(&mut self.workers[at]).id),
            (Step::Fade(at), 1..) => drop(self.leases.members.remove(&self.dead[at % self.dead.len()])),
            (Step::Free(at), 1..) => {
                let dead = self.dead[at % self.dead.len()];
                self.leases.held.retain(|_, holder| *holder != dead);
            }
            (Step::Look(at), _) => {
                self.leases.members.extend(self.workers[at].id);
                self.workers[at].saw = self.leases.clone();
            }
            (Step::Act(at), _) => self.act(at),
            (Step::LetGo(at), _) => {
                for partition in std::mem::take(&mut self.workers[at].leaving) {
                    assert_eq!(self.leases.held.remove(&partition), self.workers[at].id);
                }
            }
            _ => {}
        }
    }

    /// As the sharing of a running process does.
    fn act(&mut self, at: usize) {
        let own = self.own(at);
        let worker = &mut self.workers[at];
        let Some(id) = worker.id else { return };
        let share = worker.saw.share(id, usize::try_from(self.partitions).unwrap());
        let mut reads: Vec<u32> = own.difference(&worker.leaving).copied().collect();
        worker.leaving.extend(reads.drain(share.min(reads.len())..));
        let free = (0..self.partitions).filter(|partition| !worker.saw.held.contains_key(partition));
        for partition in free {
            if reads.len() >= share {
                break;
            }
            if let std::collections::btree_map::Entry::Vacant(lease) = self.leases.held.entry(partition) {
                lease.insert(id);
                reads.push(partition);
                self.moves += 1;
            }
        }
    }

    /// Every worker does everything once.
    fn round(&mut self) {
        for step in [Step::Look, Step::Act, Step::LetGo] {
            (0..self.workers.len()).for_each(|at| self.step(step(at)));
        }
    }

    fn is_shared(&self) -> bool {
        let up = (0..self.workers.len()).filter(|at| self.is_up(*at));
        let counts: Vec<usize> = up.map(|at| self.own(at).len()).collect();
        let (most, least) = (counts.iter().max().copied(), counts.iter().min().copied());
        let is_fair = most.zip(least).is_none_or(|(most, least)| most - least <= 1);
        let is_whole = counts.is_empty() || counts.iter().sum::<usize>() == usize::try_from(self.partitions).unwrap();
        is_fair && is_whole && self.workers.iter().all(|worker| worker.leaving.is_empty())
    }

    /// Lets everybody do what they want until it is shared; how many partitions changed hands.
    fn settle(&mut self) -> usize {
        for dead in std::mem::take(&mut self.dead) {
            self.leases.members.remove(&dead);
            self.leases.held.retain(|_, holder| *holder != dead);
        }
        let moves = self.moves;
        for _ in 0..6 {
            self.round();
        }
        assert!(self.is_shared(), "{:?}", self.leases);
        let settled = self.moves;
        self.round();
        assert_eq!(self.moves, settled, "it oscillates");
        settled - moves
    }
}

fn steps(workers: usize) -> impl Strategy<Value = Vec<Step>> {
    let at = 0..workers;
    let step = prop_oneof![
        1 => at.clone().prop_map(Step::Join),
        1 => at.clone().prop_map(Step::Die),
        2 => at.clone().prop_map(Step::Fade),
        2 => at.clone().prop_map(Step::Free),
        6 => at.clone().prop_map(Step::Look),
        6 => at.clone().prop_map(Step::Act),
        4 => at.prop_map(Step::LetGo),
    ];
    prop::collection::vec(step, 0..120)
}

proptest! {
    #[test]
    fn whatever_happens_partitions_are_shared_in_the_end(partitions in 0_u32..24, steps in steps(6)) {
        let mut table = Table::new(partitions, 6);
        steps.into_iter().for_each(|step| table.step(step));
        table.settle();
    }

    #[test]
    fn who_comes_or_goes_moves_no_more_than_it_has_to(partitions in 0_u32..24, comes in prop::collection::vec(0_usize..6, 1..20)) {
        let mut table = Table::new(partitions, 6);
        let all = usize::try_from(partitions).unwrap();
        for at in comes {
            let up = (0..6).filter(|at| table.is_up(*at)).count();
            if table.is_up(at) {
                let lost = table.own(at).len();
                table.step(Step::Die(at));
                let moved = table.settle();
                prop_assert_eq!(moved, if up == 1 { 0 } else { lost });
            } else {
                table.step(Step::Join(at));
                let moved = table.settle();
                prop_assert!(moved <= all.div_ceil(up + 1), "{} of {} moved to one of {}", moved, all, up + 1);
            }
        }
    }

    #[test]
    fn shares_of_those_who_see_the_same_are_all_partitions(
        partitions in 0_usize..40,
        members in prop::collection::btree_set(0_usize..9, 1..9),
        holders in prop::collection::vec(0_usize..9, 0..40),
    ) {
        let mut readers = Readers::default();
        let id = |at: usize| Uuid::from_u128(at as u128);
        readers.members.extend(members.iter().map(|at| id(*at)));
        readers.held.extend((0..).zip(holders).filter(|(_, holder)| members.contains(holder)).map(|(at, holder)| (at, id(holder))));
        let shares: Vec<usize> = members.iter().map(|at| readers.share(id(*at), partitions)).collect();
        prop_assert_eq!(shares.iter().sum::<usize>(), partitions);
        prop_assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
    }
}
