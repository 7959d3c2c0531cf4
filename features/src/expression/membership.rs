//! `x in [...]`: the list becomes sorted constants of the type of `x`.

use super::ExpressionError;
use super::evaluate::truncated;
use super::tree::{BoolOperation, Node, Tree};

/// Lowers `element in elements`.
pub(super) fn lower(element: Tree, elements: &[Tree]) -> Result<Tree, ExpressionError> {
    let kind = element.kind();
    let all = |constant: fn(&Tree) -> bool| elements.iter().all(constant);
    if !all(is_constant) {
        return Err(ExpressionError::new(
            "the list after 'in' holds something that is no constant",
            "write x == a || x == b where a and b are not constants",
        ));
    }
    let is_fitting = match element {
        Tree::Int(_) | Tree::Double(_) => all(|one| matches!(one, Tree::Int(_) | Tree::Double(_))),
        Tree::Text(_) => all(|one| matches!(one, Tree::Text(_))),
        Tree::Time(_) => all(|one| matches!(one, Tree::Time(_))),
        Tree::Bool(_) => {
            return Err(ExpressionError::new("'in' cannot take a bool", "compare it by =="));
        }
    };
    if !is_fitting {
        let other = elements.iter().map(Tree::kind).find(|other| *other != kind).unwrap_or(kind);
        let message = format!("{kind} is searched in a list that holds {other}");
        return Err(ExpressionError::new(message, "give the list elements of the type of what is searched"));
    }
    Ok(match element {
        Tree::Int(node) => BoolOperation::IntIn(node, sorted(elements.iter().filter_map(int).collect())),
        Tree::Time(node) => BoolOperation::TimeIn(node, sorted(elements.iter().filter_map(int).collect())),
        Tree::Double(node) => {
            BoolOperation::DoubleIn(node, elements.iter().filter_map(double).collect::<Vec<_>>().into())
        }
        Tree::Text(node) => BoolOperation::TextIn(node, sorted(elements.iter().filter_map(text).collect())),
        Tree::Bool(node) => BoolOperation::Not(node),
    }
    .into())
}

fn is_constant(tree: &Tree) -> bool {
    matches!(
        tree,
        Tree::Int(Node::Constant(_))
            | Tree::Double(Node::Constant(_))
            | Tree::Text(Node::Constant(_))
            | Tree::Time(Node::Constant(_))
            | Tree::Bool(Node::Constant(_))
    )
}

fn sorted<T: Ord>(mut values: Vec<T>) -> Box<[T]> {
    values.sort_unstable();
    values.dedup();
    values.into()
}

/// The integer or instant an element equals; `None` for a double that no integer equals.
fn int(tree: &Tree) -> Option<i64> {
    match tree {
        Tree::Int(Node::Constant(value)) | Tree::Time(Node::Constant(value)) => Some(*value),
        Tree::Double(Node::Constant(value)) if value.fract() == 0.0 => truncated(*value),
        _ => None,
    }
}

/// The double an element equals; `None` for an integer that no double equals.
fn double(tree: &Tree) -> Option<f64> {
    match tree {
        Tree::Double(Node::Constant(value)) => Some(*value),
        Tree::Int(Node::Constant(value)) => {
            let nearest = *value as f64;
            (truncated(nearest) == Some(*value)).then_some(nearest)
        }
        _ => None,
    }
}

fn text(tree: &Tree) -> Option<Box<str>> {
    if let Tree::Text(Node::Constant(value)) = tree { Some(value.clone()) } else { None }
}
