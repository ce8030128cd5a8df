//! What the README says to type does what it says: its SQL is run in order, and its tables are compared; the scripts and
//! targets it names exist.

use std::path::Path;

use crdt_live::Cluster;

/// A fenced block of the README: its language, which may be empty, and its text.
struct Block {
    language: String,
    text: String,
}

fn readme() -> (String, Vec<Block>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = std::fs::read_to_string(root.join("README.md")).expect("README.md");
    let (mut blocks, mut open) = (vec![], None::<Block>);
    for line in text.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(language), None) => open = Some(Block { language: language.to_owned(), text: String::new() }),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => block.text.push_str(&format!("{line}\n")),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block of README.md is not closed");
    (text, blocks)
}

/// Runs SQL through psql, one statement after the other, and answers what it printed.
fn psql(cluster: &Cluster, database: &str, sql: &str) -> String {
    cluster.run("psql", &["-Xq", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", sql])
}

#[test]
fn its_sql_does_what_it_says() {
    let cluster = Cluster::shared();
    let database = cluster.create_plain_database("readme");
    psql(cluster, "postgres", "CREATE ROLE app");
    let (_, blocks) = readme();
    let (mut shown, mut tables, mut statements) = (String::new(), 0, 0);
    let mut name = String::new();
    for block in blocks {
        match block.language.as_str() {
            // It says to restart the server afterwards, and the extension is there by now.
            "sql" if block.text.contains("ALTER SYSTEM") => {}
            "sql" => {
                shown = psql(cluster, &database, &block.text);
                statements += 1;
            }
            "" => {
                if name.is_empty() {
                    name = psql(cluster, &database, "SELECT peer FROM crdt.docs")
                        .lines()
                        .nth(2)
                        .expect("a doc")
                        .trim()
                        .to_owned();
                }
                // Widths differ with the name of the database.
                let words = |text: &str| -> Vec<Vec<String>> {
                    let lines = text.lines().filter(|line| line.contains('|'));
                    lines.map(|line| line.split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
                };
                let told = block.text.replace("hub-3c7cddfe", &name);
                assert!(shown.contains("row"), "{shown}");
                assert_eq!(words(&told), words(&shown), "what README.md shows, and what psql does");
                tables += 1;
            }
            other => panic!("README.md has a block of {other:?}, which no test runs"),
        }
    }
    psql(cluster, &database, "DROP OWNED BY app; DROP ROLE app");
    assert!(statements >= 6 && tables >= 2, "{statements} blocks of SQL, {tables} tables");
}

#[test]
fn the_commands_it_names_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let makefile = std::fs::read_to_string(root.join("Makefile")).expect("the Makefile");
    let (text, _) = readme();
    let mut checked = 0;
    for line in text.lines().filter_map(|line| line.strip_prefix("    ")) {
        let words: Vec<&str> = line.split_whitespace().skip_while(|word| word.contains('=')).collect();
        match words[..] {
            ["make", target, ..] => assert!(makefile.contains(&format!("\n{target}:")), "no target: {line}"),
            [script, ..] if script.starts_with("scripts/") => assert!(root.join(script).exists(), "no script: {line}"),
            _ => continue,
        }
        checked += 1;
    }
    for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        assert!(link.contains("://") || root.join(link).exists(), "README.md links to {link}, which is not there");
        checked += 1;
    }
    assert!(checked >= 10, "{checked} commands and links");
}
