//! Random expressions against a naive evaluator of our own, and against the interpreter of the crate `cel`.

use std::cmp::Ordering;

use proptest::prelude::*;

use super::{Expression, NAMES, Operand, Values, scope};

/// A value of the naive evaluator.
#[derive(Clone, PartialEq, Debug)]
enum Naive {
    Null,
    Int(i64),
    Double(f64),
    Bool(bool),
    Text(String),
    Time(i64),
}

/// A random expression: its text, and what it means.
#[derive(Clone, Debug)]
enum Random {
    Constant(String, Naive),
    Slot(usize),
    Unary(&'static str, Box<Random>),
    Binary(&'static str, Box<Random>, Box<Random>),
    Choose(Box<[Random; 3]>),
    IsNull(Box<Random>),
    In(Box<Random>, Vec<Random>),
    Call(&'static str, Vec<Random>),
}

/// Choices drawn from bytes: shrinking the bytes shrinks the expression.
struct Choices<'b> {
    bytes: std::slice::Iter<'b, u8>,
    dialect: Dialect,
}

#[derive(Clone, Copy, PartialEq)]
enum Dialect {
    /// Everything that we take.
    Ours,
    /// What the interpreter of `cel` takes with the same meaning, its errors standing for our nulls.
    Cel,
}

impl Choices<'_> {
    fn below(&mut self, end: usize) -> usize {
        usize::from(self.bytes.next().copied().unwrap_or(0)) % end
    }

    fn int(&mut self, depth: usize) -> Random {
        if depth == 0 || self.below(3) == 0 {
            return match self.below(3) {
                0 => Random::Slot([0, 5][self.below(2)]),
                _ => {
                    let value =
                        [0, 1, -1, 2, 7, 100, -3, i64::MAX, i64::MIN + 1, 9_007_199_254_740_993][self.below(10)];
                    Random::Constant(value.to_string(), Naive::Int(value))
                }
            };
        }
        match self.below(if self.dialect == Dialect::Ours { 9 } else { 5 }) {
            0..=2 => {
                let sign = ["+", "-", "*", "/", "%"][self.below(5)];
                Random::Binary(sign, Box::new(self.int(depth - 1)), Box::new(self.int(depth - 1)))
            }
            3 => Random::Unary("-", Box::new(self.int(depth - 1))),
            4 => Random::Choose(Box::new([self.bool(depth - 1), self.int(depth - 1), self.int(depth - 1)])),
            5 => Random::Call(["weekday", "hour"][self.below(2)], vec![Random::Slot(4)]),
            6 => Random::Call("size", vec![self.text()]),
            7 => Random::Call(
                ["min", "max", "coalesce"][self.below(3)],
                vec![self.int(depth - 1), self.int(depth - 1), self.int(depth - 1)],
            ),
            _ => Random::Call("int", vec![self.double(depth - 1)]),
        }
    }

    fn double(&mut self, depth: usize) -> Random {
        if depth == 0 || self.below(3) == 0 {
            return match self.below(3) {
                0 => Random::Slot([1, 6][self.below(2)]),
                _ => {
                    let value = [0.0, 1.0, -1.5, 0.25, 1e9, -7.0, 3.5, 9_007_199_254_740_992.0][self.below(8)];
                    Random::Constant(format!("{value:?}"), Naive::Double(value))
                }
            };
        }
        if self.dialect == Dialect::Cel {
            // No division: cel carries infinities on, which we make null at once.
            let sign = ["+", "-", "*"][self.below(3)];
            return Random::Binary(sign, Box::new(self.double(depth - 1)), Box::new(self.double(depth - 1)));
        }
        match self.below(7) {
            0..=1 => {
                let sign = ["+", "-", "*", "/", "%"][self.below(5)];
                Random::Binary(sign, Box::new(self.double(depth - 1)), Box::new(self.number(depth - 1)))
            }
            2 => Random::Unary("-", Box::new(self.double(depth - 1))),
            3 => Random::Choose(Box::new([self.bool(depth - 1), self.double(depth - 1), self.number(depth - 1)])),
            4 => Random::Call(
                ["min", "max", "coalesce"][self.below(3)],
                vec![self.number(depth - 1), self.double(depth - 1)],
            ),
            5 => Random::Binary("-", Box::new(Random::Slot(4)), Box::new(Random::Call("date", vec![Random::Slot(4)]))),
            _ => Random::Call(
                ["abs", "floor", "ceil", "round", "sqrt", "ln", "exp"][self.below(7)],
                vec![self.double(depth - 1)],
            ),
        }
    }

    fn number(&mut self, depth: usize) -> Random {
        if self.below(2) == 0 { self.int(depth) } else { self.double(depth) }
    }

    fn text(&mut self) -> Random {
        match self.below(3) {
            0 => Random::Slot(3),
            1 => Random::Slot(7),
            _ => {
                let text = ["DE", "FR", "", "ß"][self.below(4)];
                Random::Constant(format!("'{text}'"), Naive::Text(text.to_owned()))
            }
        }
    }

    fn bool(&mut self, depth: usize) -> Random {
        if depth == 0 {
            return match self.below(3) {
                0 => Random::Slot(2),
                1 => Random::Constant("true".to_owned(), Naive::Bool(true)),
                _ => Random::Constant("false".to_owned(), Naive::Bool(false)),
            };
        }
        let order = ["==", "!=", "<", "<=", ">", ">="];
        match self.below(if self.dialect == Dialect::Ours { 10 } else { 8 }) {
            0 => Random::Binary("&&", Box::new(self.bool(depth - 1)), Box::new(self.bool(depth - 1))),
            1 => Random::Binary("||", Box::new(self.bool(depth - 1)), Box::new(self.bool(depth - 1))),
            2 => Random::Unary("!", Box::new(self.bool(depth - 1))),
            3 => Random::Binary(order[self.below(6)], Box::new(self.int(depth - 1)), Box::new(self.int(depth - 1))),
            4 => {
                Random::Binary(order[self.below(6)], Box::new(self.double(depth - 1)), Box::new(self.double(depth - 1)))
            }
            5 => Random::Binary(order[self.below(6)], Box::new(self.text()), Box::new(self.text())),
            6 => Random::Binary(
                ["startsWith", "endsWith", "contains"][self.below(3)],
                Box::new(self.text()),
                Box::new(self.text()),
            ),
            7 => {
                let elements =
                    (0..self.below(4)).map(|_| self.int(0)).filter(|one| matches!(one, Random::Constant(..)));
                let elements = elements.collect();
                Random::In(Box::new(self.int(depth - 1)), elements)
            }
            8 => Random::IsNull(Box::new(self.number(depth - 1))),
            _ => Random::Binary(order[self.below(6)], Box::new(self.int(depth - 1)), Box::new(self.double(depth - 1))),
        }
    }
}

impl Random {
    fn source(&self) -> String {
        let list = |all: &[Self]| all.iter().map(Self::source).collect::<Vec<_>>().join(", ");
        match self {
            Self::Constant(source, _) => source.clone(),
            Self::Slot(index) => NAMES[*index].0.to_owned(),
            Self::Unary(sign, of) => format!("{sign}({})", of.source()),
            Self::Binary(method @ ("startsWith" | "endsWith" | "contains"), text, part) => {
                format!("{}.{method}({})", text.source(), part.source())
            }
            Self::Binary(sign, left, right) => format!("({} {sign} {})", left.source(), right.source()),
            Self::Choose(of) => format!("({} ? {} : {})", of[0].source(), of[1].source(), of[2].source()),
            Self::IsNull(of) => format!("({} == null)", of.source()),
            Self::In(element, of) => format!("({} in [{}])", element.source(), list(of)),
            Self::Call(name, of) => format!("{name}({})", list(of)),
        }
    }

    fn value(&self, slots: &[Naive]) -> Naive {
        match self {
            Self::Constant(_, value) => value.clone(),
            Self::Slot(index) => slots[*index].clone(),
            Self::Unary(_, of) => match of.value(slots) {
                Naive::Int(value) => value.checked_neg().map_or(Naive::Null, Naive::Int),
                Naive::Double(value) => Naive::Double(-value),
                Naive::Bool(value) => Naive::Bool(!value),
                _ => Naive::Null,
            },
            Self::Binary(sign, left, right) => binary(sign, left.value(slots), right.value(slots)),
            Self::Choose(of) => {
                let chosen = match of[0].value(slots) {
                    Naive::Bool(true) => of[1].value(slots),
                    Naive::Bool(false) => of[2].value(slots),
                    _ => Naive::Null,
                };
                if of[1].is_double() || of[2].is_double() { widened(chosen) } else { chosen }
            }
            Self::IsNull(of) => Naive::Bool(of.value(slots) == Naive::Null),
            Self::In(element, of) => match element.value(slots) {
                Naive::Null => Naive::Null,
                element => Naive::Bool(of.iter().any(|one| one.value(slots) == element)),
            },
            Self::Call(name, of) => {
                let value = called(name, of.iter().map(|one| one.value(slots)).collect());
                if of.iter().any(Self::is_double) && *name != "int" { widened(value) } else { value }
            }
        }
    }

    fn is_double(&self) -> bool {
        match self {
            Self::Constant(_, value) => matches!(value, Naive::Double(_)),
            Self::Slot(index) => [1, 6].contains(index),
            Self::Unary(_, of) => of.is_double(),
            Self::Binary(sign, left, right) => {
                matches!(*sign, "+" | "-" | "*" | "/" | "%")
                    && (left.is_double() || right.is_double() || matches!(**left, Self::Slot(4)))
            }
            Self::Choose(of) => of[1].is_double() || of[2].is_double(),
            Self::IsNull(_) | Self::In(..) => false,
            Self::Call(name, of) => *name != "int" && of.iter().any(Self::is_double),
        }
    }
}

fn widened(value: Naive) -> Naive {
    match value {
        Naive::Int(value) => Naive::Double(value as f64),
        other => other,
    }
}

fn finite(value: f64) -> Naive {
    if value.is_finite() { Naive::Double(value) } else { Naive::Null }
}

fn binary(sign: &str, left: Naive, right: Naive) -> Naive {
    use Naive::{Bool, Double, Int, Null, Text, Time};
    match (sign, &left, &right) {
        ("&&", Bool(false), _) | ("&&", _, Bool(false)) => return Bool(false),
        ("&&", Bool(true), Bool(true)) => return Bool(true),
        ("||", Bool(true), _) | ("||", _, Bool(true)) => return Bool(true),
        ("||", Bool(false), Bool(false)) => return Bool(false),
        (_, Null, _) | (_, _, Null) | ("&&" | "||", ..) => return Null,
        _ => {}
    }
    match (sign, left, right) {
        ("startsWith", Text(text), Text(part)) => Bool(text.starts_with(&part)),
        ("endsWith", Text(text), Text(part)) => Bool(text.ends_with(&part)),
        ("contains", Text(text), Text(part)) => Bool(text.contains(&part)),
        ("-", Time(later), Time(earlier)) => Double((later - earlier) as f64 / 1e6),
        ("+" | "-" | "*" | "/" | "%", Int(left), Int(right)) => {
            let (left, right) = (i128::from(left), i128::from(right));
            let result = match sign {
                "+" => Some(left + right),
                "-" => Some(left - right),
                "*" => Some(left * right),
                "/" => left.checked_div(right),
                // CEL takes it for an overflow, as the division is.
                _ if (left, right) == (i128::from(i64::MIN), -1) => None,
                _ => left.checked_rem(right),
            };
            result.and_then(|result| i64::try_from(result).ok()).map_or(Null, Int)
        }
        ("+" | "-" | "*" | "/" | "%", left, right) => match (widened(left), widened(right)) {
            (Double(left), Double(right)) => finite(match sign {
                "+" => left + right,
                "-" => left - right,
                "*" => left * right,
                "/" => left / right,
                _ => left % right,
            }),
            _ => Null,
        },
        (sign, left, right) => {
            let order = order(&left, &right);
            Bool(match sign {
                "==" => order == Ordering::Equal,
                "!=" => order != Ordering::Equal,
                "<" => order == Ordering::Less,
                "<=" => order != Ordering::Greater,
                ">" => order == Ordering::Greater,
                _ => order != Ordering::Less,
            })
        }
    }
}

fn order(left: &Naive, right: &Naive) -> Ordering {
    match (left, right) {
        (Naive::Int(left), Naive::Int(right)) => left.cmp(right),
        (Naive::Double(left), Naive::Double(right)) => left.partial_cmp(right).expect("finite"),
        (Naive::Int(left), Naive::Double(right)) => {
            let left = i128::from(*left) << 60;
            if right.abs() > 1e19 { 0.0.partial_cmp(right).expect("finite") } else { left.cmp(&exact(*right)) }
        }
        (Naive::Text(left), Naive::Text(right)) => left.chars().cmp(right.chars()),
        (Naive::Bool(left), Naive::Bool(right)) => left.cmp(right),
        _ => panic!("{left:?} and {right:?} were compared"),
    }
}

/// A double times 2^60, rounded away from zero where it has finer parts: the order against integers stays.
#[expect(clippy::cast_possible_truncation, reason = "below 1e19 * 2^60 < 2^127")]
fn exact(value: f64) -> i128 {
    let scaled = value * 2.0_f64.powi(60);
    if scaled.fract() == 0.0 { scaled as i128 } else { scaled.trunc() as i128 + value.signum() as i128 }
}

#[expect(clippy::cast_possible_truncation, reason = "range checked")]
fn called(name: &str, of: Vec<Naive>) -> Naive {
    use Naive::{Double, Int, Null, Text, Time};
    if name == "coalesce" {
        return of.into_iter().find(|one| *one != Null).unwrap_or(Null);
    }
    if of.contains(&Null) {
        return Null;
    }
    match (name, of.as_slice()) {
        ("hour", [Time(micros)]) => Int((micros.div_euclid(3_600_000_000)).rem_euclid(24)),
        ("weekday", [Time(micros)]) => Int((micros.div_euclid(86_400_000_000) + 3).rem_euclid(7)),
        ("date", [Time(micros)]) => Time(micros.div_euclid(86_400_000_000) * 86_400_000_000),
        ("size", [Text(text)]) => Int(text.chars().count() as i64),
        ("int", [Double(value)]) if (-2.0_f64.powi(63)..2.0_f64.powi(63)).contains(value) => Int(value.trunc() as i64),
        ("int", [Double(_)]) => Null,
        ("abs", [Double(value)]) => Double(value.abs()),
        ("floor", [Double(value)]) => Double(value.floor()),
        ("ceil", [Double(value)]) => Double(value.ceil()),
        ("round", [Double(value)]) => Double(value.round()),
        ("sqrt", [Double(value)]) => finite(value.sqrt()),
        ("ln", [Double(value)]) => finite(value.ln()),
        ("exp", [Double(value)]) => finite(value.exp()),
        ("min" | "max", values) => {
            // Where one is a double all become doubles before they are compared.
            let is_double = values.iter().any(|one| matches!(one, Double(_)));
            let mut values: Vec<_> =
                values.iter().cloned().map(|one| if is_double { widened(one) } else { one }).collect();
            values.sort_by(order);
            if name == "min" { values.remove(0) } else { values.pop().expect("at least two") }
        }
        _ => panic!("{name} was called with {of:?}"),
    }
}

fn operand(value: &Naive) -> Operand<'_> {
    match value {
        Naive::Null => Operand::Null,
        Naive::Int(value) => Operand::Int(*value),
        Naive::Double(value) => Operand::Double(*value),
        Naive::Bool(value) => Operand::Bool(*value),
        Naive::Text(value) => Operand::Text(value),
        Naive::Time(value) => Operand::Timestamp(*value),
    }
}

fn number() -> impl Strategy<Value = f64> {
    prop_oneof![Just(0.0), Just(1.0), -1e6..1e6_f64, (-1000_i32..1000).prop_map(f64::from)]
}

fn slots() -> impl Strategy<Value = Vec<Naive>> {
    let int = || prop_oneof![Just(0_i64), -5..5_i64, any::<i64>()].prop_map(Naive::Int);
    let text = || prop_oneof![Just("DE"), Just(""), Just("Größe")].prop_map(|text| Naive::Text(text.to_owned()));
    let time = (-62_135_596_800_000_000..253_402_300_799_999_999_i64).prop_map(Naive::Time);
    let double = || number().prop_map(Naive::Double);
    (int(), double(), any::<bool>().prop_map(Naive::Bool), text(), time, int(), double(), text())
        .prop_map(|(a, b, c, d, e, f, g, h)| vec![a, b, c, d, e, f, g, h])
}

fn nullable_slots() -> impl Strategy<Value = Vec<Naive>> {
    (slots(), any::<u8>(), any::<u8>()).prop_map(|(mut slots, first, second)| {
        for (index, slot) in slots.iter_mut().enumerate() {
            if first & second & (1 << index) != 0 {
                *slot = Naive::Null;
            }
        }
        slots
    })
}

fn random(bytes: &[u8], dialect: Dialect) -> Random {
    let mut choices = Choices { bytes: bytes.iter(), dialect };
    match choices.below(3) {
        0 => choices.bool(4),
        1 => choices.int(4),
        _ => choices.double(4),
    }
}

fn cel_value(source: &str, slots: &[Naive]) -> Option<Naive> {
    let mut context = cel::Context::default();
    for (index, name) in [(0, "count"), (1, "amount"), (2, "is_new"), (3, "country")] {
        context.add_variable_from_value(name, cel_slot(&slots[index]));
    }
    let of_map = |fields: Vec<(&str, usize)>| {
        fields
            .into_iter()
            .map(|(name, index)| (name.to_owned(), cel_slot(&slots[index])))
            .collect::<std::collections::HashMap<_, _>>()
    };
    context.add_variable_from_value("customer_spend", of_map(vec![("tx_count_7d", 5), ("amount_avg_7d", 6)]));
    context.add_variable_from_value("after", of_map(vec![("status", 7)]));
    let program = cel::Program::compile(source).expect("the text parses");
    Some(match program.execute(&context) {
        Ok(cel::Value::Int(value)) => Naive::Int(value),
        Ok(cel::Value::Float(value)) if value.is_finite() => Naive::Double(value),
        Ok(cel::Value::Bool(value)) => Naive::Bool(value),
        Ok(_) => return None,
        Err(_) => Naive::Null,
    })
}

fn cel_slot(slot: &Naive) -> cel::Value {
    match slot {
        Naive::Int(value) => (*value).into(),
        Naive::Double(value) => (*value).into(),
        Naive::Bool(value) => (*value).into(),
        Naive::Text(value) => value.as_str().into(),
        Naive::Null | Naive::Time(_) => cel::Value::Null,
    }
}

fn same(left: Operand<'_>, right: Operand<'_>) -> bool {
    match (left, right) {
        (Operand::Double(left), Operand::Double(right)) => {
            left.to_bits() == right.to_bits() || (left == 0.0 && right == 0.0)
        }
        _ => left == right,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn equals_the_naive_evaluator(
        bytes in proptest::collection::vec(any::<u8>(), 0..120),
        slots in nullable_slots(),
    ) {
        let random = random(&bytes, Dialect::Ours);
        let source = random.source();
        let expression = Expression::compile(&source, &scope());
        // A random expression may only be refused for its length or depth.
        let expression = match expression {
            Ok(expression) => expression,
            Err(error) => {
                prop_assert!(error.message.contains("nests deeper") || error.message.contains("more than"), "{source}: {error}");
                return Ok(());
            }
        };
        let expected = random.value(&slots);
        let values = Values(slots.iter().map(operand).collect());
        prop_assert!(same(expression.evaluate(&values), operand(&expected)), "{source}: {:?} is not {expected:?}", expression.evaluate(&values));
    }

    #[test]
    fn equals_the_interpreter_of_cel(
        bytes in proptest::collection::vec(any::<u8>(), 0..60),
        slots in slots(),
    ) {
        let random = random(&bytes, Dialect::Cel);
        let source = random.source();
        let Ok(expression) = Expression::compile(&source, &scope()) else {
            return Ok(());
        };
        if let Some(expected) = cel_value(&source, &slots) {
            let values = Values(slots.iter().map(operand).collect());
            prop_assert!(same(expression.evaluate(&values), operand(&expected)), "{source}: {:?} is not {expected:?}", expression.evaluate(&values));
        }
    }

    #[test]
    fn any_text_is_compiled_or_refused(text in "\\PC{0,200}") {
        let _either = Expression::compile(&text, &scope()).map(|expression| {
            let _value = expression.evaluate(&Values(Vec::new()));
        });
    }

    #[test]
    fn any_tokens_are_compiled_or_refused(
        tokens in proptest::collection::vec(prop_oneof![
            Just("amount"), Just("count"), Just("("), Just(")"), Just("["), Just("]"), Just("&&"), Just("||"),
            Just("!"), Just("-"), Just("+"), Just("%"), Just("?"), Just(":"), Just("."), Just("in"), Just("'a'"),
            Just("1"), Just("1.5"), Just("null"), Just(","), Just("size"), Just("min"), Just("{"), Just("}"), Just("=="),
            Just("has"), Just("country"), Just("matches"), Just("''"), Just("9223372036854775808"),
        ], 0..40),
    ) {
        let source = tokens.join(" ");
        let _either = Expression::compile(&source, &scope()).map(|expression| {
            let _value = expression.evaluate(&super::values());
        });
    }
}
