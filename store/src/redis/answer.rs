//! Answers of the server, taken apart.

use redis::Value;

use super::layout;
use crate::error::StoreError;

/// An answer that is not of the shape asked for.
pub(super) fn odd(what: &'static str) -> StoreError {
    layout::corrupt(what, "the server's answer has another shape than expected")
}

/// Bytes, or `None` for nothing.
pub(super) fn bytes(what: &'static str, value: Value) -> Result<Option<Vec<u8>>, StoreError> {
    match value {
        Value::Nil => Ok(None),
        Value::BulkString(bytes) => Ok(Some(bytes)),
        Value::SimpleString(text) => Ok(Some(text.into_bytes())),
        Value::Okay => Ok(Some(b"OK".to_vec())),
        _ => Err(odd(what)),
    }
}

/// Bytes that must be there.
pub(super) fn some_bytes(what: &'static str, value: Value) -> Result<Vec<u8>, StoreError> {
    bytes(what, value)?.ok_or_else(|| odd(what))
}

/// A list.
pub(super) fn list(what: &'static str, value: Value) -> Result<Vec<Value>, StoreError> {
    match value {
        Value::Array(values) => Ok(values),
        Value::Nil => Ok(Vec::new()),
        _ => Err(odd(what)),
    }
}

/// A number, as such or as text.
pub(super) fn number(what: &'static str, value: &Value) -> Result<i64, StoreError> {
    match value {
        Value::Int(number) => Ok(*number),
        Value::BulkString(bytes) => layout::number(what, bytes),
        _ => Err(odd(what)),
    }
}

/// A position.
pub(super) fn position(what: &'static str, value: &Value) -> Result<u64, StoreError> {
    u64::try_from(number(what, value)?).map_err(|_negative| odd(what))
}

/// The only answer.
pub(super) fn only(what: &'static str, answers: Vec<Value>) -> Result<Value, StoreError> {
    answers.into_iter().next().ok_or_else(|| odd(what))
}
