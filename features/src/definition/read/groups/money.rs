//! Amounts of several currencies must not be put together (DESIGN 3.14).

use super::Filter;
use crate::definition::read::slot;
use crate::definition::read::streams::StreamDraft;
use crate::definition::{Aggregation, Operand};
use crate::expression::Expression;
use crate::value::ColumnType;

/// Whether amounts in the row's currency are put together though neither filter nor operand looks at the currency.
pub(super) fn mixes_currencies(aggregation: &Aggregation, draft: &StreamDraft, filter: &Filter) -> bool {
    let Some(currency) = draft.stream.currency else {
        return false;
    };
    let puts_together = matches!(
        aggregation,
        Aggregation::Sum(_)
            | Aggregation::Mean(_)
            | Aggregation::Min(_)
            | Aggregation::Max(_)
            | Aggregation::Stddev(_)
            | Aggregation::Quantile(..)
            | Aggregation::DecayedSum(..)
    );
    let reads = |expression: &Expression, column: usize| expression.slots().contains(&slot(column));
    let is_single = match filter {
        Filter::Nothing => false,
        Filter::Condition(filter) => reads(filter, currency),
        Filter::Doubtful => true,
    };
    let is_money = |column: usize| {
        matches!(draft.stream.columns[column].kind, ColumnType::Decimal { .. }) && !draft.converted.contains(&column)
    };
    let is_mixed = |operand: &Operand| match operand {
        Operand::Column(column) => is_money(*column),
        Operand::Expression(expression) => {
            !reads(expression, currency)
                && (0..draft.stream.columns.len()).any(|column| is_money(column) && reads(expression, column))
        }
    };
    puts_together && !is_single && aggregation.operands().any(is_mixed)
}
