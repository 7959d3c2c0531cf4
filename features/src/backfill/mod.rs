//! Point-in-time features of a stream's whole history at once: the vector of every event as a decision on it would have seen it.
//!
//! The same states and the same reads as the engine's, in another order: not event by event over all keys, but key by key over all
//! its events, so that one state at a time is worked on and stays near. Rows are spread over shards by key, each shard is worked
//! through on one thread, and what was read is brought back into the order of the input.
//!
//! Invariants:
//! - Every vector has the bits that [`crate::engine::Engine`] gives when the events are applied in order of (time, first version).
//! - An event's vector depends on no event after it in that order.

mod columns;
mod events;
mod refused;
mod route;
#[cfg(test)]
mod tests;

use crate::definition::GroupKind;
use crate::engine::Plan;
use crate::expression::Type;

pub use columns::{Column, TextCell};
pub use events::{Chunk, Events, SettleError, Settled};
pub use refused::{Part, RefusedRow};

use route::RouteFeatures;

/// One column of the result.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FeatureColumn {
    /// Index of the feature in the definitions.
    pub feature: usize,
    /// Its name in flat tables.
    pub name: String,
    /// Its type; an integer feature whose default is no integer has doubles.
    pub kind: Type,
}

/// The features of all events of a history.
#[derive(Debug)]
pub struct Features<'a> {
    plan: &'a Plan,
    events: &'a Events,
    columns: Vec<FeatureColumn>,
    /// Per feature of the definitions: its type in columns.
    kinds: Vec<Type>,
    routes: Vec<RouteFeatures>,
}

impl<'a> Features<'a> {
    /// Reads the features of every event; works on all threads of the current pool.
    #[must_use]
    pub fn evaluate(plan: &'a Plan, events: &'a Events) -> Self {
        let stream = events.stream();
        let kinds = kinds(plan);
        let is_read = |feature: usize| {
            let groups = plan.definitions.groups.iter().zip(&plan.programs);
            let mut group = groups.filter(|(group, program)| {
                (group.first_feature..group.first_feature + program.width()).contains(&feature)
            });
            match group.next() {
                Some((group, _)) => group.stream == stream,
                None => plan.definitions.derived[feature - derived_from(plan)].stream == stream,
            }
        };
        let columns = plan.definitions.features.iter().enumerate().filter(|(feature, _)| is_read(*feature));
        let columns = columns
            .map(|(feature, named)| FeatureColumn { feature, name: named.column_name(), kind: kinds[feature] })
            .collect();
        let routes = plan.streams[stream].routes.iter().filter(|route| !route.applies.is_empty());
        let routes = routes.map(|route| RouteFeatures::evaluate(plan, events, route, &kinds)).collect();
        Self { plan, events, columns, kinds, routes }
    }

    /// The columns: features of the stream's own groups, and its derived features, in order of the definitions. Groups fed by
    /// another stream have none: that stream's history is not here.
    #[must_use]
    pub fn columns(&self) -> &[FeatureColumn] {
        &self.columns
    }
}

/// Index of the first derived feature.
fn derived_from(plan: &Plan) -> usize {
    plan.definitions.features.len() - plan.definitions.derived.len()
}

/// Per feature, its type in columns.
fn kinds(plan: &Plan) -> Vec<Type> {
    let mut kinds: Vec<Type> = plan.definitions.features.iter().map(|feature| feature.kind).collect();
    for group in &plan.definitions.groups {
        let GroupKind::Windowed { windows, features, .. } = &group.kind else { continue };
        for (place, feature) in features.iter().enumerate() {
            if feature.default.is_some_and(|default| default.fract() != 0.0) {
                let from = group.first_feature + place * windows.len();
                for kind in &mut kinds[from..from + windows.len()] {
                    if *kind == Type::Int {
                        *kind = Type::Double;
                    }
                }
            }
        }
    }
    kinds
}
