//! The type check: from a syntax tree to the typed tree, with every name resolved to its slot.

use std::collections::BTreeSet;

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, SelectExpr, operators};

use super::tree::{
    Arithmetic, Bool, BoolOperation, Comparison, Double, DoubleOperation, Int, IntOperation, Node, Text, Time, Tree,
};
use super::{ExpressionError, Scope, Type, functions, membership};
use crate::config::suggestion;

/// How many nodes an expression may have.
const NODES_MAX: usize = 1000;

/// Checks `tree` against `scope`; hands back the typed tree and the slots it reads.
pub(super) fn check(tree: &IdedExpr, scope: &Scope) -> Result<(Tree, Vec<u32>), ExpressionError> {
    let mut checker = Checker { scope, slots: BTreeSet::new(), nodes: 0 };
    let tree = checker.value(tree)?;
    Ok((tree, checker.slots.into_iter().collect()))
}

/// The names that a tree uses, sorted.
pub(super) fn names(tree: &IdedExpr) -> Vec<String> {
    let mut names = BTreeSet::new();
    collect_names(tree, &mut names);
    names.into_iter().collect()
}

fn collect_names(tree: &IdedExpr, names: &mut BTreeSet<String>) {
    match &tree.expr {
        Expr::Ident(name) => {
            names.insert(name.clone());
        }
        Expr::Select(select) => match qualified(select) {
            Some(name) => {
                names.insert(name);
            }
            None => collect_names(&select.operand, names),
        },
        Expr::Call(call) => {
            call.target.as_deref().into_iter().chain(&call.args).for_each(|part| collect_names(part, names));
        }
        Expr::List(list) => list.elements.iter().for_each(|element| collect_names(element, names)),
        // The others are refused by the check.
        _ => {}
    }
}

pub(super) struct Checker<'s> {
    scope: &'s Scope,
    slots: BTreeSet<u32>,
    nodes: usize,
}

/// Values of one type.
pub(super) enum Uniform {
    Int(Vec<Node<Int>>),
    Double(Vec<Node<Double>>),
    Bool(Vec<Node<Bool>>),
    Text(Vec<Node<Text>>),
    Time(Vec<Node<Time>>),
}

impl Checker<'_> {
    /// The typed tree of something that is not the literal `null`.
    pub(super) fn value(&mut self, tree: &IdedExpr) -> Result<Tree, ExpressionError> {
        self.value_or_null(tree)?
            .ok_or_else(|| ExpressionError::new("null has no type here", "compare with null by x == null or x != null"))
    }

    /// `None` for the literal `null`.
    fn value_or_null(&mut self, tree: &IdedExpr) -> Result<Option<Tree>, ExpressionError> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            let message = format!("the expression has more than {NODES_MAX} parts");
            return Err(ExpressionError::new(message, "split it into several"));
        }
        match &tree.expr {
            Expr::Literal(LiteralValue::Null) => Ok(None),
            Expr::Literal(literal) => constant(literal).map(Some),
            Expr::Ident(name) => self.name(name).map(Some),
            Expr::Select(select) => self.select(select).map(Some),
            Expr::Call(call) => self.call(call).map(Some),
            Expr::List(_) => Err(unsupported("a list", "lists stand after `in`: country in ['DE', 'FR']")),
            Expr::Comprehension(_) => Err(unsupported(
                "a macro (all, exists, exists_one, map, filter)",
                "an expression sees one event; write && and ||",
            )),
            Expr::Map(_) | Expr::Struct(_) => {
                Err(unsupported("a map or message", "write columns, numbers, texts and functions of them"))
            }
            Expr::Unspecified => Err(ExpressionError::new("the expression has an empty part", "complete it")),
        }
    }

    fn name(&mut self, name: &str) -> Result<Tree, ExpressionError> {
        if let Some((index, kind)) = self.scope.get(name) {
            self.slots.insert(index);
            return Ok(Tree::slot(index, kind));
        }
        if let Some(why) = self.scope.refusal(name) {
            return Err(ExpressionError::new(format!("'{name}' cannot be used here"), why));
        }
        let mut names: Vec<&str> = self.scope.names().collect();
        names.sort_unstable();
        Err(ExpressionError::new(format!("unknown name '{name}'"), suggestion(name, names.into_iter())))
    }

    fn select(&mut self, select: &SelectExpr) -> Result<Tree, ExpressionError> {
        if select.test {
            return Err(unsupported("has()", "write x != null"));
        }
        let Some(name) = qualified(select) else {
            let message = format!("'.{}' follows something that has no fields", select.field);
            return Err(ExpressionError::new(message, "fields belong to names: customer_spend.tx_count_7d"));
        };
        if let Some((owner, field)) = name.rsplit_once('.')
            && self.scope.get(&name).is_none()
            && let Some((_, kind)) = self.scope.get(owner)
        {
            let message = format!("'{owner}' is {kind} and has no field '{field}'");
            return Err(ExpressionError::new(message, format!("write {owner}")));
        }
        self.name(&name)
    }

    fn call(&mut self, call: &CallExpr) -> Result<Tree, ExpressionError> {
        match (call.func_name.as_str(), call.args.as_slice()) {
            (operators::EQUALS, [left, right]) => self.equality(Comparison::Equal, left, right),
            (operators::NOT_EQUALS, [left, right]) => self.equality(Comparison::NotEqual, left, right),
            (operators::CONDITIONAL, [condition, then, otherwise]) => self.choose(condition, then, otherwise),
            (operators::IN, [element, list]) => self.membership(element, list),
            (operators::LOGICAL_AND, terms) => self.logical("&&", BoolOperation::And, terms),
            (operators::LOGICAL_OR, terms) => self.logical("||", BoolOperation::Or, terms),
            (operators::LOGICAL_NOT, [term]) => Ok(BoolOperation::Not(self.condition("!", term)?).into()),
            (operators::NEGATE, [term]) => negate(self.value(term)?),
            (operators::INDEX | operators::OPT_INDEX | operators::OPT_SELECT, _) => {
                Err(unsupported("an index", "there are no lists or maps to index"))
            }
            (name, [left, right]) if let Some(by) = arithmetic_of(name) => {
                let (left, right) = (self.value(left)?, self.value(right)?);
                arithmetic(by, left, right)
            }
            (name, [left, right]) if let Some(by) = order_of(name) => {
                let (left, right) = (self.value(left)?, self.value(right)?);
                compare(by, left, right)
            }
            _ => functions::call(self, call),
        }
    }

    fn condition(&mut self, of: &str, tree: &IdedExpr) -> Result<Node<Bool>, ExpressionError> {
        match self.value(tree)? {
            Tree::Bool(node) => Ok(node),
            other => {
                let message = format!("'{of}' takes conditions, not {}", other.kind());
                Err(ExpressionError::new(message, "write a comparison: amount > 0.0"))
            }
        }
    }

    fn logical(
        &mut self,
        sign: &str,
        operation: impl Fn(Node<Bool>, Node<Bool>) -> BoolOperation,
        terms: &[IdedExpr],
    ) -> Result<Tree, ExpressionError> {
        let mut nodes = terms.iter().map(|term| self.condition(sign, term)).collect::<Result<Vec<_>, _>>()?.into_iter();
        let first =
            nodes.next().ok_or_else(|| ExpressionError::new(format!("'{sign}' has no sides"), "complete it"))?;
        Ok(Tree::Bool(nodes.fold(first, |left, right| operation(left, right).into())))
    }

    fn equality(&mut self, by: Comparison, left: &IdedExpr, right: &IdedExpr) -> Result<Tree, ExpressionError> {
        match (self.value_or_null(left)?, self.value_or_null(right)?) {
            (Some(left), Some(right)) => compare(by, left, right),
            (Some(tested), None) | (None, Some(tested)) => Ok(match by {
                Comparison::Equal => BoolOperation::IsNull(tested),
                _ => BoolOperation::IsPresent(tested),
            }
            .into()),
            (None, None) => Err(ExpressionError::new("null is compared with null", "name what may be null")),
        }
    }

    fn choose(&mut self, condition: &IdedExpr, then: &IdedExpr, otherwise: &IdedExpr) -> Result<Tree, ExpressionError> {
        let condition = self.condition("?", condition)?;
        let (then, otherwise) = match (self.value_or_null(then)?, self.value_or_null(otherwise)?) {
            (Some(then), Some(otherwise)) => (then, otherwise),
            (Some(then), None) => {
                let null = null_like(&then);
                (then, null)
            }
            (None, Some(otherwise)) => (null_like(&otherwise), otherwise),
            (None, None) => return Err(ExpressionError::new("both sides of ':' are null", "give one a value")),
        };
        let (then_kind, otherwise_kind) = (then.kind(), otherwise.kind());
        Ok(match unify(vec![then, otherwise]) {
            Some(Uniform::Int(nodes)) => Tree::Int(choice(condition, nodes)),
            Some(Uniform::Double(nodes)) => Tree::Double(choice(condition, nodes)),
            Some(Uniform::Bool(nodes)) => Tree::Bool(choice(condition, nodes)),
            Some(Uniform::Text(nodes)) => Tree::Text(choice(condition, nodes)),
            Some(Uniform::Time(nodes)) => Tree::Time(choice(condition, nodes)),
            None => {
                let message = format!("the two sides of ':' are {then_kind} and {otherwise_kind}");
                return Err(ExpressionError::new(message, "give both sides one type"));
            }
        })
    }

    fn membership(&mut self, element: &IdedExpr, list: &IdedExpr) -> Result<Tree, ExpressionError> {
        let element = self.value(element)?;
        let Expr::List(list) = &list.expr else {
            return Err(ExpressionError::new(
                "'in' takes a list written out",
                "write country in ['DE', 'FR'], or compare with ==",
            ));
        };
        let elements = list.elements.iter().map(|one| self.value(one)).collect::<Result<Vec<_>, _>>()?;
        membership::lower(element, &elements)
    }
}

fn constant(literal: &LiteralValue) -> Result<Tree, ExpressionError> {
    Ok(match literal {
        LiteralValue::Int(value) => Tree::Int(Node::Constant(*value.inner())),
        LiteralValue::UInt(value) => match i64::try_from(*value.inner()) {
            Ok(value) => Tree::Int(Node::Constant(value)),
            Err(_too_large) => {
                let message = format!("{} is beyond 64-bit integers", value.inner());
                return Err(ExpressionError::new(message, "write it as a double, with a point"));
            }
        },
        LiteralValue::Double(value) if value.inner().is_finite() => Tree::Double(Node::Constant(*value.inner())),
        LiteralValue::Double(_) => {
            return Err(ExpressionError::new("a number is beyond doubles", "write at most 1.7e308"));
        }
        LiteralValue::Boolean(value) => Tree::Bool(Node::Constant(*value.inner())),
        LiteralValue::String(value) => Tree::Text(Node::Constant(value.inner().into())),
        LiteralValue::Bytes(_) => return Err(unsupported("bytes", "write a text in quotes without b")),
        LiteralValue::Null => return Err(ExpressionError::new("null has no type here", "write x == null")),
    })
}

/// `a.b.c` as one name.
fn qualified(select: &SelectExpr) -> Option<String> {
    let mut parts = vec![select.field.as_str()];
    let mut operand = &select.operand;
    loop {
        match &operand.expr {
            Expr::Ident(name) => {
                parts.push(name);
                parts.reverse();
                return Some(parts.join("."));
            }
            Expr::Select(inner) if !inner.test => {
                parts.push(&inner.field);
                operand = &inner.operand;
            }
            _ => return None,
        }
    }
}

pub(super) fn unsupported(what: &str, help: &str) -> ExpressionError {
    ExpressionError::new(format!("{what} is not supported"), help)
}

/// Brings values to one type: integers become doubles beside doubles. `None` when they differ otherwise.
pub(super) fn unify(trees: Vec<Tree>) -> Option<Uniform> {
    let first = trees.first()?.kind();
    let is_mixed = trees.iter().any(|tree| tree.kind() != first);
    if is_mixed {
        return trees.into_iter().map(double_of).collect::<Option<_>>().map(Uniform::Double);
    }
    macro_rules! all {
        ($variant:ident) => {
            Uniform::$variant(
                trees
                    .into_iter()
                    .filter_map(|tree| if let Tree::$variant(node) = tree { Some(node) } else { None })
                    .collect(),
            )
        };
    }
    Some(match first {
        Type::Int => all!(Int),
        Type::Double => all!(Double),
        Type::Bool => all!(Bool),
        Type::Text => all!(Text),
        Type::Timestamp => all!(Time),
    })
}

/// A number as a double.
pub(super) fn double_of(tree: Tree) -> Option<Node<Double>> {
    match tree {
        Tree::Int(Node::Constant(value)) => Some(Node::Constant(value as f64)),
        Tree::Int(node) => Some(DoubleOperation::OfInt(node).into()),
        Tree::Double(node) => Some(node),
        _ => None,
    }
}

fn null_like(tree: &Tree) -> Tree {
    match tree {
        Tree::Int(_) => Tree::Int(Node::Null),
        Tree::Double(_) => Tree::Double(Node::Null),
        Tree::Bool(_) => Tree::Bool(Node::Null),
        Tree::Text(_) => Tree::Text(Node::Null),
        Tree::Time(_) => Tree::Time(Node::Null),
    }
}

fn choice<K: super::tree::Kind>(condition: Node<Bool>, nodes: Vec<Node<K>>) -> Node<K> {
    let mut nodes = nodes.into_iter();
    match (nodes.next(), nodes.next()) {
        (Some(then), Some(otherwise)) => Node::Choose(Box::new((condition, then, otherwise))),
        _ => Node::Null,
    }
}

fn negate(tree: Tree) -> Result<Tree, ExpressionError> {
    match tree {
        Tree::Int(Node::Constant(value)) if value != i64::MIN => Ok(Tree::Int(Node::Constant(-value))),
        Tree::Int(node) => Ok(IntOperation::Negate(node).into()),
        Tree::Double(Node::Constant(value)) => Ok(Tree::Double(Node::Constant(-value))),
        Tree::Double(node) => Ok(DoubleOperation::Negate(node).into()),
        other => {
            let message = format!("'-' cannot take {}", other.kind());
            Err(ExpressionError::new(message, "negate numbers; conditions are negated by !"))
        }
    }
}

fn arithmetic_of(name: &str) -> Option<Arithmetic> {
    Some(match name {
        operators::ADD => Arithmetic::Add,
        operators::SUBSTRACT => Arithmetic::Subtract,
        operators::MULTIPLY => Arithmetic::Multiply,
        operators::DIVIDE => Arithmetic::Divide,
        operators::MODULO => Arithmetic::Remainder,
        _ => return None,
    })
}

fn order_of(name: &str) -> Option<Comparison> {
    Some(match name {
        operators::LESS => Comparison::Less,
        operators::LESS_EQUALS => Comparison::LessEqual,
        operators::GREATER => Comparison::Greater,
        operators::GREATER_EQUALS => Comparison::GreaterEqual,
        _ => return None,
    })
}

fn arithmetic(by: Arithmetic, left: Tree, right: Tree) -> Result<Tree, ExpressionError> {
    let (left_kind, right_kind) = (left.kind(), right.kind());
    match (left, right) {
        (Tree::Int(left), Tree::Int(right)) => Ok(IntOperation::Arithmetic(by, left, right).into()),
        (Tree::Time(later), Tree::Time(earlier)) if by == Arithmetic::Subtract => {
            Ok(DoubleOperation::SecondsBetween(later, earlier).into())
        }
        (left, right) => match (double_of(left), double_of(right)) {
            (Some(left), Some(right)) => Ok(DoubleOperation::Arithmetic(by, left, right).into()),
            _ => {
                let sign = match by {
                    Arithmetic::Add => "+",
                    Arithmetic::Subtract => "-",
                    Arithmetic::Multiply => "*",
                    Arithmetic::Divide => "/",
                    Arithmetic::Remainder => "%",
                };
                let help = match (left_kind, right_kind) {
                    (Type::Timestamp, _) | (_, Type::Timestamp) => {
                        "the difference of two timestamps gives seconds: a - b > 3600.0"
                    }
                    (Type::Text, _) | (_, Type::Text) => "texts are compared and searched, not joined",
                    _ => "take numbers; a condition becomes one by x ? 1.0 : 0.0",
                };
                let message = format!("'{sign}' cannot take {left_kind} and {right_kind}");
                Err(ExpressionError::new(message, help))
            }
        },
    }
}

fn compare(by: Comparison, left: Tree, right: Tree) -> Result<Tree, ExpressionError> {
    let is_equality = matches!(by, Comparison::Equal | Comparison::NotEqual);
    let (left_kind, right_kind) = (left.kind(), right.kind());
    Ok(match (left, right) {
        (Tree::Int(left), Tree::Int(right)) => BoolOperation::CompareInt(by, left, right),
        (Tree::Double(left), Tree::Double(right)) => BoolOperation::CompareDouble(by, left, right),
        (Tree::Int(left), Tree::Double(right)) => BoolOperation::CompareIntDouble(by, left, right),
        (Tree::Double(left), Tree::Int(right)) => BoolOperation::CompareIntDouble(by.mirrored(), right, left),
        (Tree::Time(left), Tree::Time(right)) => BoolOperation::CompareTime(by, left, right),
        (Tree::Text(left), Tree::Text(right)) => BoolOperation::CompareText(by, left, right),
        (Tree::Bool(left), Tree::Bool(right)) if is_equality => BoolOperation::CompareBool(by, left, right),
        (Tree::Bool(_), Tree::Bool(_)) => {
            return Err(ExpressionError::new("conditions have no order", "compare them by == or !="));
        }
        _ => {
            let help = match (left_kind, right_kind) {
                (Type::Timestamp, Type::Text) | (Type::Text, Type::Timestamp) => {
                    "write the instant as timestamp('2026-01-31T00:00:00Z')"
                }
                (Type::Text, _) | (_, Type::Text) => "numbers stand without quotes, texts within",
                _ => "compare values of one type",
            };
            return Err(ExpressionError::new(format!("{left_kind} is compared with {right_kind}"), help));
        }
    }
    .into())
}
