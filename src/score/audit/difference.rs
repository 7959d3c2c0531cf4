//! Where two records differ.

use serde_json::Value;

/// A decision that is not what its recomputation says.
#[derive(Debug, serde::Serialize)]
pub(super) struct Difference {
    pub(super) decision_id: String,
    /// `SOURCE/PARTITION:POSITION` of the judged change.
    pub(super) place: String,
    pub(super) fields: Vec<Field>,
}

/// One field that differs; null where a side has none.
#[derive(Debug, PartialEq, serde::Serialize)]
pub(super) struct Field {
    /// Such as `features[customer_spend.tx_count_1d].value`.
    pub(super) path: String,
    pub(super) logged: Value,
    pub(super) recomputed: Value,
}

/// The fields in which two values differ, in order.
pub(super) fn fields(logged: &Value, recomputed: &Value) -> Vec<Field> {
    let mut fields = Vec::new();
    compare(String::new(), logged, recomputed, &mut fields);
    fields
}

fn compare(path: String, logged: &Value, recomputed: &Value, fields: &mut Vec<Field>) {
    match (logged, recomputed) {
        (Value::Object(left), Value::Object(right)) => {
            let mut names: Vec<&String> =
                left.keys().chain(right.keys().filter(|name| !left.contains_key(*name))).collect();
            names.sort_unstable();
            for name in names {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                let side = |side: &serde_json::Map<String, Value>| side.get(name).cloned().unwrap_or(Value::Null);
                compare(path, &side(left), &side(right), fields);
            }
        }
        (Value::Array(left), Value::Array(right)) => {
            for at in 0..left.len().max(right.len()) {
                let side = |side: &[Value]| side.get(at).cloned().unwrap_or(Value::Null);
                let (left, right) = (side(left), side(right));
                let path = format!("{path}[{}]", name_of(&left).unwrap_or_else(|| at.to_string()));
                compare(path, &left, &right, fields);
            }
        }
        (left, right) if is_same(left, right) => {}
        (left, right) => fields.push(Field { path, logged: left.clone(), recomputed: right.clone() }),
    }
}

/// As fingerprints are the same: -0.0 is not 0.0.
fn is_same(left: &Value, right: &Value) -> bool {
    let bytes = |value| serde_json::to_vec(value).ok();
    bytes(left) == bytes(right)
}

/// What an element of a list is called.
fn name_of(element: &Value) -> Option<String> {
    ["name", "id", "partition", "code"].iter().find_map(|key| element.get(key)?.as_str().map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Field, fields};

    #[test]
    fn names_what_differs_by_its_path() {
        let logged = json!({ "score": 0.5, "features": [{ "name": "a", "value": 1 }, { "name": "b", "value": 0.0 }], "rules": [] });
        let made = json!({ "score": 0.5, "features": [{ "name": "a", "value": 2 }, { "name": "b", "value": -0.0 }], "rules": ["x"], "late": true });
        let field = |path: &str, logged, recomputed| Field { path: path.to_owned(), logged, recomputed };
        assert_eq!(
            fields(&logged, &made),
            [
                field("features[a].value", json!(1), json!(2)),
                field("features[b].value", json!(0.0), json!(-0.0)),
                field("late", json!(null), json!(true)),
                field("rules[0]", json!(null), json!("x")),
            ]
        );
        assert_eq!(fields(&logged, &logged), []);
    }
}
