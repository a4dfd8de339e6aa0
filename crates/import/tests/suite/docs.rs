//! `docs/import.md` has a table of every key, made from the importer's own rows.

use std::fmt::Write;
use std::path::Path;

use cutover_import::{Fate, Tool, fields};
use expect_test::expect_file;

const BEGIN: &str =
    "<!-- The tables below are made by a test: UPDATE_EXPECT=1 cargo test -p cutover-import docs -->\n";

fn table(tool: Tool) -> String {
    let mut text = String::from("| key | | becomes | and |\n|---|---|---|---|\n");
    for field in fields(tool) {
        let mark = match field.fate {
            Fate::Honoured => "same",
            Fate::Differently => "differs",
            Fate::NotHonoured => "**no**",
        };
        let becomes = if field.becomes.is_empty() { String::new() } else { format!("`{}`", field.becomes) };
        let and = match (field.what, field.next) {
            (what, "") => what.to_string(),
            (what, next) => format!("{what}; {next}"),
        };
        let _ = writeln!(text, "| `{}` | {mark} | {becomes} | {} |", field.key, and.replace('|', "\\|"));
    }
    text
}

#[test]
fn the_page_has_every_key() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/import.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (front, _) = page.split_once(BEGIN).expect("the page says where its tables begin");
    let made = format!(
        "{front}{BEGIN}\n## Keys of a compose file\n\n{}\n## Keys of Kamal's deploy.yml\n\n{}",
        table(Tool::Compose),
        table(Tool::Kamal)
    );
    expect_file![path].assert_eq(&made);
}
