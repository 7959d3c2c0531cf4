//! What one pass over a file reports, and where.

use super::*;

fn problems(source: &str, read: impl FnOnce(&ConfigFile)) -> Vec<(usize, usize, String)> {
    let file = match ConfigFile::parse("interdict.toml", source) {
        Ok(file) => file,
        Err(Problems(problems)) => return problems.into_iter().map(|p| (p.line, p.column, p.message)).collect(),
    };
    read(&file);
    match file.finish() {
        Ok(()) => Vec::new(),
        Err(Problems(problems)) => problems.into_iter().map(|p| (p.line, p.column, p.message)).collect(),
    }
}

#[test]
fn plain_keys_at_the_top_are_read_and_unknown_ones_reported() {
    let source = "namespace = \"shop\"\nnamspace = 1\n[store]\npath = \"x\"\n";
    let found = problems(source, |file| {
        assert_eq!(file.root().text("namespace").as_deref(), Some("shop"));
        let store = file.section("store").expect("it is there");
        assert_eq!(store.text("path").as_deref(), Some("x"));
        store.finish();
    });
    assert_eq!(found, [(2, 1, "unknown section 'namspace'".to_owned())]);
    let found = problems("namespace = 5", |file| assert_eq!(file.root().text("namespace"), None));
    assert_eq!(found, [(1, 13, "'namespace' at the top of the file must be a string, not integer".to_owned())]);
}

#[test]
fn every_reader_reports_wrong_types_with_their_place() {
    let source = "[a]\ntext = 1\nflag = \"x\"\ncount = 1.5\nlow = -1\nratio = \"x\"\nspan = \"7 days\"\nlist = [1, \"b\"]\nchoice = \"c\"\nextra = 1\n";
    let found = problems(source, |file| {
        let section = file.section("a").expect("it is there");
        assert_eq!(section.text("text"), None);
        assert_eq!(section.bool("flag"), None);
        assert_eq!(section.integer("count", 0..=9), None);
        assert_eq!(section.integer("low", 0..=9), None);
        assert_eq!(section.number("ratio", 0.0..=1.0), None);
        assert_eq!(section.span_of_time("span"), None);
        assert_eq!(section.texts("list").map(|list| list.len()), Some(1));
        assert_eq!(section.choice("choice", &["a", "b"]), None);
        section.require("needed", "1");
        section.finish();
    });
    let lines: Vec<usize> = found.iter().map(|(line, ..)| *line).collect();
    assert_eq!(lines, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    assert_eq!(found[0].2, "[a] has no 'needed'");
    assert_eq!(found[9].2, "unknown key 'extra' in [a]");
}

#[test]
fn tables_by_dotted_keys_and_in_arrays_have_places() {
    let found = problems("x = 1\n[top]\na.b = 1\n[[list]]\nn = 1\n", |file| {
        let a = file.section("top").and_then(|top| top.section("a")).expect("it is there");
        a.report("absent", "here", "");
        for section in file.array("list") {
            section.report("absent", "there", "");
            section.know("n");
            section.finish();
        }
        file.root().know("x");
    });
    assert_eq!(found, [(3, 1, "here".to_owned()), (4, 1, "there".to_owned())]);
    let found = problems("list = [1, { n = 1 }]\n", |file| assert_eq!(file.array("list").len(), 1));
    assert_eq!(found, [(1, 9, "'list' holds integer".to_owned())]);
}

#[test]
fn what_is_no_toml_or_too_large_is_one_problem() {
    assert_eq!(problems("a = \n", |_| ()).len(), 1);
    assert_eq!(problems(&"[".repeat(100_000), |_| ()).len(), 1);
    assert_eq!(problems(&"#".repeat(SOURCE_BYTES_MAX + 1), |_| ())[0].2, "the file has 1048577 bytes");
}

#[test]
fn messages_are_bounded_whatever_they_quote() {
    let key = "k".repeat(100_000);
    let found = problems(&format!("[a]\n{key} = 1\n"), |file| {
        let section = file.section("a").expect("it is there");
        let _absent = section.text("known");
        section.finish();
    });
    assert!(found[0].2.chars().count() <= MESSAGE_CHARS_MAX + 3, "{}", found[0].2.len());
}

#[test]
fn suggestions_name_the_nearest_or_a_dozen() {
    assert_eq!(suggestion("amout", ["amount", "count"].into_iter()), "did you mean 'amount'?");
    assert_eq!(suggestion("zzz", ["amount", "count"].into_iter()), "known here: amount, count");
    assert_eq!(suggestion("zzz", std::iter::empty()), "");
    let many: Vec<String> = (0..20).map(|index| format!("column_{index}")).collect();
    assert!(suggestion("zzz", many.iter().map(String::as_str)).ends_with("and 8 more"));
}

#[test]
fn the_number_of_mistakes_shown_is_bounded() {
    let source = (0..900).map(|index| format!("key_{index} = 1\n")).collect::<String>();
    let found = problems(&source, |file| assert_eq!(file.problem_count(), 0));
    assert_eq!(found.len(), PROBLEMS_MAX + 1);
    assert_eq!(found[PROBLEMS_MAX].2, "700 more mistakes are not shown");
}
