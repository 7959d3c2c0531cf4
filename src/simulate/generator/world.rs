//! The population: customers with their habits, terminals with their places, and the index that finds the
//! terminals within reach of a customer without a list per customer.
//!
//! Layout of the index: the grid is cut into square cells no smaller than the radius; terminals are sorted by cell, so
//! that everything within reach of a point lies in three runs of neighbouring cells.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::{Config, Draw, stream};

/// Side of the grid, in units.
pub(super) const SIDE: f64 = 100.0;

/// Share of a normal(43200, 20000) second of day that lies within the day; the rest is discarded, as the handbook does.
const WITHIN_DAY: f64 = 0.969;

/// How often a terminal is drawn from the neighbourhood before the ones within reach are counted out. A third to
/// three quarters of the neighbourhood is within reach where the grid is dense, so that 24 misses are rare.
const TRIES: usize = 24;

#[derive(Clone, Copy, Debug)]
pub(super) struct Customer {
    pub(super) x: f64,
    pub(super) y: f64,
    /// Mean amount, major units; the standard deviation is half of it.
    pub(super) mean: f64,
    /// Mean number of transactions per day.
    pub(super) rate: f64,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    x: f64,
    y: f64,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) customers: Vec<Customer>,
    places: Vec<Place>,
    cells: usize,
    starts: Vec<u32>,
    by_cell: Vec<u32>,
    radius: f64,
}

impl World {
    pub(super) fn draw(config: &Config) -> Self {
        let customers = (0..config.customers)
            .map(|index| {
                let mut random = stream(config.seed, Draw::Customer, 0, index);
                Customer {
                    x: random.random_range(0.0..SIDE),
                    y: random.random_range(0.0..SIDE),
                    mean: random.random_range(5.0..100.0),
                    rate: random.random_range(0.0..4.0),
                }
            })
            .collect();
        let places: Vec<Place> = (0..config.terminals)
            .map(|index| {
                let mut random = stream(config.seed, Draw::Terminal, 0, index);
                Place { x: random.random_range(0.0..SIDE), y: random.random_range(0.0..SIDE) }
            })
            .collect();
        let mut world =
            Self { customers, places, cells: 1, starts: Vec::new(), by_cell: Vec::new(), radius: config.radius };
        world.build_index();
        world
    }

    /// Mean number of transactions of one day, fraud scenarios 4 and 5 left out.
    pub(super) fn daily_rate(&self) -> f64 {
        self.customers.iter().map(|customer| customer.rate).sum::<f64>() * WITHIN_DAY
    }

    /// Degrees north and east of a terminal: a unit of the grid is about 2.2 km.
    pub(super) fn coordinates(&self, terminal: u32) -> (f64, f64) {
        let place = self.places[terminal as usize];
        (45.0 + place.y * 0.02, 5.0 + place.x * 0.028)
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to 4096 cells")]
    #[expect(clippy::cast_precision_loss, reason = "counts of terminals are exact in a double")]
    fn build_index(&mut self) {
        let spacing = SIDE / (self.places.len() as f64).sqrt();
        self.cells = (SIDE / self.radius.max(spacing)).clamp(1.0, 4096.0) as usize;
        let cell_of: Vec<usize> = self.places.iter().map(|place| self.cell(place.x, place.y)).collect();
        self.starts = vec![0; self.cells * self.cells + 1];
        for cell in &cell_of {
            self.starts[cell + 1] += 1;
        }
        for cell in 1..self.starts.len() {
            self.starts[cell] += self.starts[cell - 1];
        }
        let mut next = self.starts.clone();
        self.by_cell = vec![0; self.places.len()];
        for (terminal, cell) in (0_u32..).zip(cell_of) {
            self.by_cell[next[cell] as usize] = terminal;
            next[cell] += 1;
        }
    }

    fn cell(&self, x: f64, y: f64) -> usize {
        self.row(y) * self.cells + self.row(x)
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "coordinates lie within the grid")]
    #[expect(clippy::cast_precision_loss, reason = "at most 4096 cells")]
    fn row(&self, coordinate: f64) -> usize {
        ((coordinate / SIDE * self.cells as f64) as usize).min(self.cells - 1)
    }

    fn distance(&self, terminal: u32, x: f64, y: f64) -> f64 {
        let place = self.places[terminal as usize];
        (place.x - x).hypot(place.y - y)
    }

    /// A terminal within the radius, each equally likely, or the nearest one where there is none.
    pub(super) fn terminal_near(&self, customer: &Customer, random: &mut ChaCha8Rng) -> u32 {
        let (x, y) = (customer.x, customer.y);
        let runs = self.neighbourhood(x, y, 1);
        let total: usize = runs.iter().map(|run| run.len()).sum();
        if total > 0 {
            for _ in 0..TRIES {
                let terminal = nth(&runs, random.random_range(0..total));
                if self.distance(terminal, x, y) <= self.radius {
                    return terminal;
                }
            }
        }
        let within: Vec<u32> = runs
            .iter()
            .flat_map(|run| run.iter().copied())
            .filter(|terminal| self.distance(*terminal, x, y) <= self.radius)
            .collect();
        if within.is_empty() { self.nearest(x, y) } else { within[random.random_range(0..within.len())] }
    }

    /// A terminal at least `distance` away, each equally likely; the farthest of those drawn where there is none.
    pub(super) fn terminal_far(&self, customer: &Customer, distance: f64, random: &mut ChaCha8Rng) -> u32 {
        let count = u32::try_from(self.places.len()).unwrap_or(u32::MAX);
        let mut farthest = (0.0, 0);
        for _ in 0..TRIES * 4 {
            let terminal = random.random_range(0..count);
            let away = self.distance(terminal, customer.x, customer.y);
            if away >= distance {
                return terminal;
            }
            if away >= farthest.0 {
                farthest = (away, terminal);
            }
        }
        farthest.1
    }

    fn nearest(&self, x: f64, y: f64) -> u32 {
        let mut best: Option<(f64, u32)> = None;
        for reach in 1..=self.cells {
            for terminal in self.neighbourhood(x, y, reach).iter().flat_map(|run| run.iter().copied()) {
                let away = self.distance(terminal, x, y);
                if best.is_none_or(|(nearest, _)| away < nearest) {
                    best = Some((away, terminal));
                }
            }
            #[expect(clippy::cast_precision_loss, reason = "at most 4096 cells")]
            let searched = reach as f64 * SIDE / self.cells as f64;
            if best.is_some_and(|(away, _)| away <= searched) {
                break;
            }
        }
        best.map_or(0, |(_, terminal)| terminal)
    }

    /// The terminals in the cells at most `reach` cells away, one run per row of cells.
    fn neighbourhood(&self, x: f64, y: f64, reach: usize) -> Vec<&[u32]> {
        let (column, row) = (self.row(x), self.row(y));
        let last = self.cells - 1;
        (row.saturating_sub(reach)..=(row + reach).min(last))
            .map(|row| {
                let from = self.starts[row * self.cells + column.saturating_sub(reach)];
                let to = self.starts[row * self.cells + (column + reach).min(last) + 1];
                &self.by_cell[from as usize..to as usize]
            })
            .collect()
    }
}

fn nth(runs: &[&[u32]], mut index: usize) -> u32 {
    for run in runs {
        if let Some(terminal) = run.get(index) {
            return *terminal;
        }
        index -= run.len();
    }
    unreachable!("the index is below the runs' total length")
}
