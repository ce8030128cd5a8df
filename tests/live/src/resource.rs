//! What the operating system grants one server process, and what it has used.

use std::process::{Command, Stdio};

use postgres::Client;

/// Lets a session's process take so many more bytes of memory and no more.
pub fn limit_memory(client: &mut Client, more: u64) {
    let pid = backend_pid(client);
    let size: u64 = status_field(&process_status(&pid), "VmSize:").parse().expect("a number");
    set_limit(&pid, &format!("--as={}", size * 1024 + more));
}

/// Lets a session's process write no file beyond so many bytes, as a full disk would. Not below the size of a segment of
/// the write-ahead log, 16 MiB.
pub fn limit_files(client: &mut Client, bytes: u64) {
    set_limit(&backend_pid(client), &format!("--fsize={bytes}:unlimited"));
}

/// Takes [`limit_files`] back.
pub fn unlimit_files(client: &mut Client) {
    set_limit(&backend_pid(client), "--fsize=unlimited:unlimited");
}

/// The CPU time a process has used so far.
pub fn cpu_seconds(pid: i32) -> f64 {
    // The scheduler counts nanoseconds; /proc/PID/stat only hundredths of a second.
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).expect("/proc/PID/schedstat of a backend");
    let nanoseconds: f64 = text.split(' ').next().and_then(|n| n.parse().ok()).expect("CPU time in schedstat");
    nanoseconds / 1e9
}

/// Ends a process with SIGKILL; was it there? The shell's own `kill`: a small system has no program of that name.
pub fn kill(pid: i64) -> bool {
    let mut shell = Command::new("sh");
    shell.args(["-c", "kill -9 \"$0\"", &pid.to_string()]).stderr(Stdio::null());
    shell.status().expect("sh").success()
}

fn backend_pid(client: &mut Client) -> String {
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).expect("a backend").get(0);
    pid.to_string()
}

/// A process may change the limits of its own user's processes; root without all its rights has to become that user.
fn set_limit(pid: &str, limit: &str) {
    let (theirs, ours) = (process_status(pid), process_status("self"));
    let (user, group) = (status_field(&theirs, "Uid:"), status_field(&theirs, "Gid:"));
    let mut command = if user == status_field(&ours, "Uid:") {
        Command::new("prlimit")
    } else {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &user, "--regid", &group, "--clear-groups", "prlimit"]);
        command
    };
    let done = command.args(["--pid", pid, limit]).status();
    assert!(done.is_ok_and(|status| status.success()), "cannot limit process {pid} to {limit}");
}

fn process_status(pid: &str) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process")
}

fn status_field(status: &str, name: &str) -> String {
    let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in:\n{status}"));
    line.split_whitespace().nth(1).expect("a value").to_owned()
}
