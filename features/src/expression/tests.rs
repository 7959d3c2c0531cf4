//! Tables of expressions and their answers.

mod property;

use super::{Expression, Operand, Scope, Slots, Type};

/// Values of slots by index.
struct Values<'a>(Vec<Operand<'a>>);

impl Slots for Values<'_> {
    fn slot(&self, index: u32) -> Operand<'_> {
        self.0.get(index as usize).copied().unwrap_or(Operand::Null)
    }
}

const NAMES: [(&str, Type); 8] = [
    ("count", Type::Int),
    ("amount", Type::Double),
    ("is_new", Type::Bool),
    ("country", Type::Text),
    ("tx_datetime", Type::Timestamp),
    ("customer_spend.tx_count_7d", Type::Int),
    ("customer_spend.amount_avg_7d", Type::Double),
    ("after.status", Type::Text),
];

fn scope() -> Scope {
    let mut scope = Scope::default();
    for (index, (name, kind)) in (0..).zip(NAMES) {
        scope.declare(name, index, kind);
    }
    scope.refuse("is_fraud", "the label is known later");
    scope
}

/// 2018-04-07 was a Saturday.
const SATURDAY: i64 = 1_523_073_845_000_000;

fn values() -> Values<'static> {
    Values(vec![
        Operand::Int(7),
        Operand::Double(120.5),
        Operand::Bool(true),
        Operand::Text("Größe-DE"),
        Operand::Timestamp(SATURDAY),
        Operand::Int(3),
        Operand::Null,
        Operand::Null,
    ])
}

#[track_caller]
fn check(source: &str, expected: Operand<'_>) {
    let expression = Expression::compile(source, &scope()).unwrap_or_else(|error| panic!("{source}: {error}"));
    assert_eq!(expression.evaluate(&values()), expected, "{source}");
}

#[test]
fn arithmetic_is_exact_or_null() {
    use Operand::{Double, Int, Null};
    for (source, expected) in [
        ("1 + 2 * 3", Int(7)),
        ("-count", Int(-7)),
        ("--count", Int(7)),
        ("count / 2", Int(3)),
        ("-count / 2", Int(-3)),
        ("-count % 4", Int(-3)),
        ("count / 2.0", Double(3.5)),
        ("count + 0.5", Double(7.5)),
        ("amount % 100.0", Double(20.5)),
        ("count / 0", Null),
        ("count % 0", Null),
        ("amount / 0", Null),
        ("amount % 0.0", Null),
        ("0.0 / 0.0", Null),
        ("9223372036854775807 + count", Null),
        ("-9223372036854775808", Int(i64::MIN)),
        ("-(-9223372036854775808 + 0)", Null),
        ("(-9223372036854775807 - 1) / -1", Null),
        ("(-9223372036854775807 - 1) % -1", Null),
        ("1e308 * 10.0", Null),
        ("amount / customer_spend.amount_avg_7d", Null),
        ("1u + 2u", Int(3)),
        ("0x10 + 1", Int(17)),
    ] {
        check(source, expected);
    }
}

#[test]
fn logic_has_three_values() {
    use Operand::{Bool, Null};
    for (source, expected) in [
        ("customer_spend.amount_avg_7d > 1.0", Null),
        ("customer_spend.amount_avg_7d > 1.0 && false", Bool(false)),
        ("false && customer_spend.amount_avg_7d > 1.0", Bool(false)),
        ("customer_spend.amount_avg_7d > 1.0 && true", Null),
        ("customer_spend.amount_avg_7d > 1.0 || true", Bool(true)),
        ("true || customer_spend.amount_avg_7d > 1.0", Bool(true)),
        ("customer_spend.amount_avg_7d > 1.0 || false", Null),
        ("!(customer_spend.amount_avg_7d > 1.0)", Null),
        ("customer_spend.amount_avg_7d == customer_spend.amount_avg_7d", Null),
        ("customer_spend.amount_avg_7d == null", Bool(true)),
        ("null != customer_spend.amount_avg_7d", Bool(false)),
        ("amount / 0.0 == null", Bool(true)),
        ("amount != null", Bool(true)),
        ("after.status == 'done' ? 1 : 2", Null),
        ("is_new ? null : 2", Null),
        ("(is_new ? 1 : 2.5) == 1", Bool(true)),
        ("after.status in ['a']", Null),
        ("is_new == true && is_new != false", Bool(true)),
        ("!!is_new", Bool(true)),
    ] {
        check(source, expected);
    }
}

#[test]
fn comparisons_are_exact() {
    use Operand::Bool;
    for (source, expected) in [
        ("9007199254740993 == 9007199254740992.0", false),
        ("9007199254740993 > 9007199254740992.0", true),
        ("9223372036854775807 < 9223372036854775808.0", true),
        ("-9223372036854775808 == -9223372036854775808.0", true),
        ("-9223372036854775808 > -1e300", true),
        ("0 > -0.5", true),
        ("-1 < -0.5", true),
        ("7.0 >= count", true),
        ("6.5 < count", true),
        ("0.0 == -0.0", true),
        ("country < 'H'", true),
        ("country == \"Größe-DE\"", true),
        ("tx_datetime >= timestamp('2018-04-07')", true),
        ("tx_datetime == timestamp('2018-04-07T06:04:05+02:00')", true),
        ("count in [1, 7, 9]", true),
        ("count in [1.0, 7.0, 7.5]", true),
        ("count in []", false),
        ("amount in [120.5, 3]", true),
        ("9007199254740992.0 in [9007199254740993]", false),
        ("country in ['FR', 'Größe-DE']", true),
        ("!(country in ['FR'])", true),
        ("tx_datetime in [timestamp('2018-04-07T04:04:05Z')]", true),
    ] {
        check(source, Bool(expected));
    }
}

#[test]
fn functions_compute() {
    use Operand::{Bool, Double, Int, Null, Timestamp};
    for (source, expected) in [
        ("hour(tx_datetime)", Int(4)),
        ("minute(tx_datetime)", Int(4)),
        ("second(tx_datetime)", Int(5)),
        ("weekday(tx_datetime)", Int(5)),
        ("day(tx_datetime)", Int(7)),
        ("month(tx_datetime)", Int(4)),
        ("year(tx_datetime)", Int(2018)),
        ("weekday(timestamp('1969-12-29'))", Int(0)),
        ("hour(timestamp('1969-12-31T23:59:59.999999Z'))", Int(23)),
        ("date(tx_datetime)", Timestamp(1_523_059_200_000_000)),
        ("tx_datetime - date(tx_datetime)", Double(14_645.0)),
        ("int(timestamp('1970-01-01T00:00:01.9Z'))", Int(1)),
        ("abs(-3)", Int(3)),
        ("abs(-3.5)", Double(3.5)),
        ("abs(-9223372036854775808)", Null),
        ("min(count, 3, 9)", Int(3)),
        ("max(count, 3.5)", Double(7.0)),
        ("max(count, customer_spend.amount_avg_7d)", Null),
        ("max(tx_datetime, timestamp('2020-01-01')) == timestamp('2020-01-01')", Bool(true)),
        ("floor(-1.5)", Double(-2.0)),
        ("ceil(1.2)", Double(2.0)),
        ("round(2.5)", Double(3.0)),
        ("round(count)", Int(7)),
        ("sqrt(9)", Double(3.0)),
        ("sqrt(-1.0)", Null),
        ("ln(0.0)", Null),
        ("log(1.0)", Double(0.0)),
        ("log10(1000)", Double(3.0)),
        ("exp(1000.0)", Null),
        ("pow(2, 10)", Double(1024.0)),
        ("pow(-1.0, 0.5)", Null),
        ("double(count)", Double(7.0)),
        ("int(-7.9)", Int(-7)),
        ("int(1e19)", Null),
        ("size(country)", Int(8)),
        ("country.size()", Int(8)),
        ("country.startsWith('Grö')", Bool(true)),
        ("country.endsWith('-FR')", Bool(false)),
        ("country.contains('ß')", Bool(true)),
        ("country.matches('^Gr.*DE$')", Bool(true)),
        ("matches(country, '^[0-9]+$')", Bool(false)),
        ("after.status.contains('x')", Null),
        ("coalesce(customer_spend.amount_avg_7d, 1)", Double(1.0)),
        ("coalesce(after.status, country) == country", Bool(true)),
    ] {
        check(source, expected);
    }
}

#[test]
fn mistakes_say_what_to_write() {
    for (source, message, help) in [
        ("", "is empty", "write a condition"),
        ("amout > 1.0", "unknown name 'amout'", "did you mean 'amount'?"),
        ("customer_spend.tx_count_8d > 1", "unknown name 'customer_spend.tx_count_8d'", "customer_spend.tx_count_7d"),
        ("amount.minor", "'amount' is a double and has no field 'minor'", "write amount"),
        ("is_fraud", "'is_fraud' cannot be used here", "known later"),
        ("amount > '5'", "a double is compared with a text", "without quotes"),
        ("tx_datetime > '2018-01-01'", "a timestamp is compared with a text", "timestamp('"),
        ("amount > ", "not a CEL expression", ""),
        ("amount >> 1", "not a CEL expression", ""),
        ("amount AND 1", "not a CEL expression", ""),
        ("amount && true", "'&&' takes conditions, not a double", "comparison"),
        ("country + 'x'", "'+' cannot take a text and a text", "not joined"),
        ("tx_datetime + 5", "'+' cannot take a timestamp and an integer", "seconds"),
        ("-country", "'-' cannot take a text", ""),
        ("is_new < true", "conditions have no order", "=="),
        ("null", "null has no type", "x == null"),
        ("null == null", "null is compared with null", ""),
        ("is_new ? 1 : 'a'", "the two sides of ':' are an integer and a text", "one type"),
        ("is_new ? null : null", "both sides", ""),
        ("count in ['a']", "an integer is searched in a list that holds a text", ""),
        ("count in [count]", "no constant", "=="),
        ("count in country", "'in' takes a list", "['DE', 'FR']"),
        ("[1, 2]", "a list is not supported", "in"),
        ("{'a': 1}", "a map or message is not supported", ""),
        ("[1].exists(x, x > 0)", "a macro", "&&"),
        ("has(after.status)", "has() is not supported", "x != null"),
        ("b'abc'", "bytes is not supported", ""),
        ("country[0]", "an index is not supported", ""),
        ("hours(tx_datetime)", "unknown function 'hours'", "did you mean 'hour'?"),
        ("hour(amount)", "'hour' cannot take (a double)", "hour(tx_datetime)"),
        ("tx_datetime.hour()", "'.hour' is a function", "hour(tx_datetime)"),
        ("tx_datetime.getDayOfWeek()", "unknown method '.getDayOfWeek()'", "Monday is 0"),
        ("startsWith(country, 'a')", "follows its text", "card.startsWith"),
        ("min(amount)", "'min' cannot take (a double)", "min("),
        ("pow(amount)", "'pow' cannot take", ""),
        ("timestamp(country)", "written out", ""),
        ("timestamp('yesterday')", "'yesterday' is no instant", "2026"),
        ("country.matches('(')", "no regular expression", ""),
        ("country.matches('(a{1000}){1000}')", "needs more than", "smaller"),
        ("country.matches(country)", "written out", ""),
        ("duration('1h')", "duration is not supported", "seconds"),
        ("99999999999999999999", "not a CEL expression", ""),
        ("18446744073709551615u", "beyond 64-bit integers", "double"),
        ("1e999", "", ""),
    ] {
        let error = Expression::compile(source, &scope()).expect_err(source);
        assert!(error.message.contains(message), "{source}: {}", error.message);
        assert!(error.help.contains(help), "{source}: {}", error.help);
    }
}

#[test]
fn slots_are_listed_once_and_types_known() {
    let expression =
        Expression::compile("amount > 1.0 && amount < 5.0 || customer_spend.tx_count_7d > count", &scope()).unwrap();
    assert_eq!(expression.slots(), [0, 1, 5]);
    assert_eq!(expression.kind(), Type::Bool);
    assert!(expression.source().starts_with("amount"));
    assert!(!expression.holds(&values()));
}

#[test]
fn slots_of_another_type_or_not_finite_are_null() {
    let expression = Expression::compile("amount", &scope()).unwrap();
    for (given, expected) in [
        (Operand::Double(f64::NAN), Operand::Null),
        (Operand::Double(f64::INFINITY), Operand::Null),
        (Operand::Int(2), Operand::Double(2.0)),
        (Operand::Text("2"), Operand::Null),
    ] {
        assert_eq!(expression.evaluate(&Values(vec![Operand::Null, given])), expected);
    }
}

#[test]
fn hostile_texts_are_refused_in_bounded_time_and_stack() {
    let deep = |open: &str, core: &str, close: &str, times: usize| open.repeat(times) + core + &close.repeat(times);
    for source in [
        deep("(", "1", ")", 100_000),
        deep("(", "1", ")", 2_000),
        deep("(", "1", ")", 60),
        deep("((((", "1", "", 500),
        deep("[", "1", "]", 2_000),
        deep("{1:", "1", "}", 500),
        deep("f(", "1", ")", 1_000),
        deep("true ? 1 : ", "2", "", 290),
        deep("true ? ", "2", ": 1", 150),
        deep("-", "1", "", 4_000),
        deep("- ", "1", "", 2_000),
        deep("!", "true", "", 4_000),
        deep("a.", "a", "", 590),
        deep("a.", "a", "", 2_000),
        deep("", "amount", " + 1.0", 290),
        deep("", "1", "+1", 599),
        deep("", "1", "[1]", 250),
        deep("", "country", ".size()", 190),
        deep("x in [", "1", "]", 24),
        deep("'", "", "", 4_001),
        deep("\\", "", "", 500),
        deep("\"\\", "", "", 500),
        deep("`", "", "", 500),
        deep("@#$%^&*", "", "", 80),
        deep("a ", "", "", 2_000),
        deep("1 in ", "[1]", "", 100),
        deep("a < ", "a", "", 500),
        deep("\u{0}", "", "", 400),
        deep("r'''", "", "", 500),
        deep("'''(", "", "", 500),
        deep("//(\n", "1", "", 500),
        deep("[1].map(x, ", "1", ")", 23),
        "\u{feff}amount".to_owned(),
        "💥 > 1".to_owned(),
    ] {
        let answer = Expression::compile(&source, &scope());
        assert!(answer.is_err(), "{}", &source[..source.len().min(40)]);
    }
}

#[test]
fn long_rules_compile() {
    let conditions = (0..60).map(|limit| format!("amount > {limit}.5")).collect::<Vec<_>>().join(" && ");
    check(&conditions, Operand::Bool(true));
    let countries = (0..250).map(|index| format!("'C{index}'")).collect::<Vec<_>>().join(", ");
    check(&format!("country in [{countries}]"), Operand::Bool(false));
    check(&format!("{}is_new{}", "(".repeat(20), ")".repeat(20)), Operand::Bool(true));
}

#[test]
fn calendar_parts_equal_those_of_the_calendar_library() {
    use jiff::tz::TimeZone;
    let parts = ["year", "month", "day", "weekday", "hour", "minute", "second"]
        .map(|part| Expression::compile(&format!("{part}(tx_datetime)"), &scope()).unwrap());
    // A step that is coprime to all calendar periods, over the whole range of instants.
    for micros in (-62_135_596_800_000_000..253_402_200_000_000_000_i64).step_by(13_999_999_999_999_999 / 40) {
        let civil = jiff::Timestamp::from_microsecond(micros).unwrap().to_zoned(TimeZone::UTC);
        let expected = [
            i64::from(civil.year()),
            i64::from(civil.month()),
            i64::from(civil.day()),
            i64::from(civil.weekday().to_monday_zero_offset()),
            i64::from(civil.hour()),
            i64::from(civil.minute()),
            i64::from(civil.second()),
        ];
        let mut input = values();
        input.0[4] = Operand::Timestamp(micros);
        for (part, expected) in parts.iter().zip(expected) {
            assert_eq!(part.evaluate(&input), Operand::Int(expected), "{} of {micros}", part.source());
        }
    }
}
