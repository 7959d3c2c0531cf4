//! From text to the syntax tree of the crate `cel`, within limits that no hostile text can pass.
//!
//! Invariant: the parser only sees texts whose length, nesting and number of signs are bounded, so that neither it nor
//! any walk over its tree exhausts a stack.

use cel::common::ast::{Expr, IdedExpr};
use cel::parser::Parser;

use super::ExpressionError;

/// The longest source in bytes: twenty times the longest rule we have seen.
pub(super) const SOURCE_BYTES_MAX: usize = 4096;
/// How deep brackets may nest in the text.
const BRACKETS_MAX: usize = 24;
/// How many signs (anything but letters, digits, blanks and text in quotes) a source may hold. A chain of
/// operators becomes a tree as deep as it is long in the parser.
const SIGNS_MAX: usize = 600;
/// How deep a syntax tree may be.
pub(super) const DEPTH_MAX: usize = 48;

/// Parses `source` within the limits.
pub(super) fn parse(source: &str) -> Result<IdedExpr, ExpressionError> {
    if source.trim().is_empty() {
        return Err(ExpressionError::new("the expression is empty", "write a condition or a value: amount > 100.0"));
    }
    if source.len() > SOURCE_BYTES_MAX {
        let message = format!("the expression has {} bytes", source.len());
        return Err(ExpressionError::new(message, format!("write at most {SOURCE_BYTES_MAX}, or split it")));
    }
    scan(source)?;
    let tree = Parser::new().max_recursion_depth(96).parse(source).map_err(|errors| {
        let text = errors.errors.first().map_or_else(String::new, |error| error.msg.trim().to_owned());
        let column = errors.errors.first().map_or(1, |error| error.pos.1.max(1));
        let message = format!("not a CEL expression, at its character {column}: {}", shortened(&text));
        ExpressionError::new(message, "write operators as in amount > 100.0 && country in ['DE', 'FR']")
    })?;
    if is_deeper(&tree, DEPTH_MAX) {
        return Err(too_deep());
    }
    Ok(tree)
}

/// Counts brackets and signs outside quotes.
fn scan(source: &str) -> Result<(), ExpressionError> {
    let (mut depth, mut signs) = (0_usize, 0_usize);
    let mut quote = None;
    let mut characters = source.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(_), '\\') => {
                characters.next();
            }
            (Some(open), _) if open == character => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(character),
            (None, '(' | '[' | '{') => (depth, signs) = (depth + 1, signs + 1),
            (None, ')' | ']' | '}') => depth = depth.saturating_sub(1),
            (None, _) => signs += usize::from(!character.is_alphanumeric() && !character.is_whitespace()),
        }
        if depth > BRACKETS_MAX {
            return Err(too_deep());
        }
        if signs > SIGNS_MAX {
            let message = format!("the expression has more than {SIGNS_MAX} operators and separators");
            return Err(ExpressionError::new(message, "split it into several"));
        }
    }
    Ok(())
}

fn too_deep() -> ExpressionError {
    ExpressionError::new(
        format!("the expression nests deeper than {DEPTH_MAX} operators or {BRACKETS_MAX} brackets"),
        "split it into several derived features",
    )
}

fn is_deeper(tree: &IdedExpr, depth_max: usize) -> bool {
    let Some(left) = depth_max.checked_sub(1) else {
        return true;
    };
    match &tree.expr {
        Expr::Call(call) => {
            call.target.as_deref().is_some_and(|target| is_deeper(target, left))
                || call.args.iter().any(|argument| is_deeper(argument, left))
        }
        Expr::List(list) => list.elements.iter().any(|element| is_deeper(element, left)),
        Expr::Select(select) => is_deeper(&select.operand, left),
        // The others are refused without being entered.
        _ => false,
    }
}

fn shortened(text: &str) -> String {
    let line = text.lines().next().unwrap_or("");
    if line.chars().count() <= 120 { line.to_owned() } else { line.chars().take(117).chain("...".chars()).collect() }
}
