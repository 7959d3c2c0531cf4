//! Values of an act as parameters: all go as text, which the server reads as the type its statement gives them.

use std::error::Error;

use bytes::BytesMut;
use interdict_features::key_text;
use interdict_features::value::{ColumnType, Value};
use tokio_postgres::types::{Format, IsNull, Kind, ToSql, Type, to_sql_checked};

use super::error::ActError;
use crate::action::act::Act;
use crate::policy::database::{Parameter, Source};

/// A parameter's value; `None` is null.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Text(pub(super) Option<String>);

impl ToSql for Text {
    fn to_sql(&self, _type: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match &self.0 {
            Some(text) => {
                out.extend_from_slice(text.as_bytes());
                Ok(IsNull::No)
            }
            None => Ok(IsNull::Yes),
        }
    }

    fn accepts(_type: &Type) -> bool {
        true
    }

    fn encode_format(&self, _type: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}

/// The values of `parameters` for `act` of `action`, whose entity's key has columns of the types `key`.
pub(super) fn values(
    act: &Act,
    action: &str,
    parameters: &[Parameter],
    key: &[ColumnType],
) -> Result<Vec<Text>, ActError> {
    let parts = key_text::split(&act.target.key, key.len()).ok_or(ActError::Key { columns: key.len() })?;
    let judged = act.decision.as_ref();
    let value = |parameter: &Parameter| match parameter.source {
        Source::Key(at) => parts.get(at).cloned(),
        Source::DecisionId => Some(act.id.to_string()),
        Source::DecidedAt => Some(act.decided_at.to_string()),
        Source::Action => Some(action.to_owned()),
        Source::Entity => Some(act.target.entity.clone()),
        Source::Kind => Some(act.kind.to_string()),
        Source::Reason => Some(act.reason.clone()),
        Source::Author => act.author.clone(),
        Source::Outcome => judged.map(|judged| format!("{:?}", judged.outcome).to_lowercase()),
        Source::Score => judged.and_then(|judged| judged.score).map(|score| score.to_string()),
        Source::EventId => judged.map(|judged| judged.event_id.clone()),
        Source::Stream => judged.map(|judged| judged.stream.clone()),
        Source::Column => judged.and_then(|judged| judged.columns.get(&parameter.name)).and_then(text_of),
    };
    Ok(parameters.iter().map(|parameter| Text(value(parameter))).collect())
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::Bool(value) => Some(value.to_string()),
        Value::Int(value) => Some(value.to_string()),
        Value::Double(value) => Some(value.to_string()),
        Value::Text(value) => Some(value.to_string()),
    }
}

/// Whether a parameter of type `wanted` can take every value of the declared type `given`. Types that are not built in
/// are left to the server.
pub(super) fn fits(given: ColumnType, wanted: &Type) -> bool {
    let wanted = match wanted.kind() {
        Kind::Domain(base) => base,
        _ => wanted,
    };
    let is_text = [Type::TEXT, Type::VARCHAR, Type::BPCHAR, Type::NAME, Type::UNKNOWN].contains(wanted);
    let is_float = [Type::NUMERIC, Type::FLOAT4, Type::FLOAT8].contains(wanted);
    let is_int = [Type::INT2, Type::INT4, Type::INT8, Type::OID].contains(wanted);
    let is_time = [Type::TIMESTAMPTZ, Type::TIMESTAMP, Type::DATE].contains(wanted);
    let is_other = is_float || is_int || is_time || [Type::UUID, Type::BOOL].contains(wanted);
    is_text
        || match given {
            ColumnType::Int => is_int || is_float,
            ColumnType::Double | ColumnType::Decimal { .. } => is_float,
            ColumnType::Bool => *wanted == Type::BOOL,
            ColumnType::Uuid => *wanted == Type::UUID,
            ColumnType::Timestamp => is_time,
            ColumnType::Text => !is_other,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INT: ColumnType = ColumnType::Int;
    const TEXT: ColumnType = ColumnType::Text;

    #[test]
    fn a_declared_type_fits_what_can_take_all_of_it() {
        for (given, wanted, expected) in [
            (INT, Type::INT8, true),
            (INT, Type::NUMERIC, true),
            (INT, Type::TEXT, true),
            (INT, Type::UUID, false),
            (TEXT, Type::VARCHAR, true),
            (TEXT, Type::INT8, false),
            (TEXT, Type::JSONB, true),
            (ColumnType::Uuid, Type::UUID, true),
            (ColumnType::Uuid, Type::INT8, false),
            (ColumnType::Timestamp, Type::TIMESTAMPTZ, true),
            (ColumnType::Double, Type::INT4, false),
            (ColumnType::Decimal { scale: 2 }, Type::NUMERIC, true),
        ] {
            assert_eq!(fits(given, &wanted), expected, "{given:?} {wanted}");
        }
    }
}
