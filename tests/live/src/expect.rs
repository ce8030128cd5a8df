//! What tests expect of answers.

use postgres::{Client, Error, SimpleQueryMessage};

/// The SQLSTATE of an error from the server; panics on an error of the connection.
pub fn sqlstate(error: &Error) -> &str {
    error.code().unwrap_or_else(|| panic!("not an error of the server: {error}")).code()
}

/// The message of an expected error; panics when the statement succeeded or failed otherwise.
pub fn expect_error<T>(result: Result<T, Error>, expected: &str) -> String {
    let Err(error) = result else { panic!("succeeded instead of failing with {expected}") };
    let Some(answer) = error.as_db_error() else { panic!("not an error of the server: {error}") };
    assert_eq!(answer.code().code(), expected, "{answer}");
    answer.message().to_owned()
}

/// A query's rows in the text form of psql's unaligned output: columns with `|`, NULL as `<null>`.
pub fn rows(client: &mut Client, sql: &str) -> Vec<String> {
    let messages = client.simple_query(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    messages.iter().filter_map(row_text).collect()
}

fn row_text(message: &SimpleQueryMessage) -> Option<String> {
    let SimpleQueryMessage::Row(row) = message else { return None };
    let cells: Vec<&str> = (0..row.len()).map(|column| row.get(column).unwrap_or("<null>")).collect();
    Some(cells.join("|"))
}
