//! Rules for Rust files: sizes, headers, `unsafe`, sleeps.
//!
//! It judges one file at a time. Invariant: a verdict depends on the file's text and its place in the repository only.

use crate::Fault;
use crate::source::Source;

/// What a reader can hold in mind at once.
const FILE_LINES_MAX: usize = 600;

/// What fits on a screen.
const FUNCTION_LINES_MAX: usize = 70;

/// The one place where `unsafe` may stand.
const UNSAFE_HOME: &str = "crates/gate-sys/";

/// What a line with a sleep in a test has to say: it looks again and again, with a deadline.
const POLL_MARK: &str = "// bounded poll";

/// Every fault of one file.
pub(crate) fn faults(source: &Source) -> Vec<Fault> {
    [sizes(source), header(source), unsafe_code(source), sleeps(source)].concat()
}

/// What a crate's first file must say.
pub(crate) fn crate_root(source: &Source) -> Vec<Fault> {
    if source.path.starts_with(UNSAFE_HOME) || source.code.contains("#![forbid(unsafe_code)]") {
        return Vec::new();
    }
    vec![Fault::new(&source.path, 1, "crate roots forbid unsafe code", "add #![forbid(unsafe_code)] under the header")]
}

fn sizes(source: &Source) -> Vec<Fault> {
    let mut faults = Vec::new();
    let lines = source.text.lines().count();
    if lines > FILE_LINES_MAX {
        let remedy = format!("{lines} lines: split it at a noun of the domain");
        faults.push(Fault::new(&source.path, FILE_LINES_MAX + 1, "files have at most 600 lines", remedy));
    }
    for function in source.functions().into_iter().filter(|function| function.lines > FUNCTION_LINES_MAX) {
        let remedy = format!("`{}` has {}: name a part of it", function.name, function.lines);
        faults.push(Fault::new(&source.path, function.line, "functions have at most 70 lines", remedy));
    }
    faults
}

/// A module's tests may go without: their header is that of the module.
fn header(source: &Source) -> Vec<Fault> {
    let is_tests = source.path.ends_with("/tests.rs") && source.path.contains("/src/");
    if is_tests || source.text.starts_with("//!") {
        return Vec::new();
    }
    let remedy = "say what it is for, what it does not do, and its invariant";
    vec![Fault::new(&source.path, 1, "modules open with //!", remedy)]
}

fn unsafe_code(source: &Source) -> Vec<Fault> {
    let at_home = source.path.starts_with(UNSAFE_HOME);
    let fault = |line: usize| match at_home {
        true if is_justified(source, line) => None,
        true => Some(Fault::new(
            &source.path,
            line,
            "unsafe code has a SAFETY comment",
            "say above the statement what is relied on, who guarantees it, and what happens if not",
        )),
        false => Some(Fault::new(
            &source.path,
            line,
            "unsafe code stands in gate-sys only",
            "put a safe function for it into gate-sys",
        )),
    };
    source.word("unsafe").into_iter().filter_map(fault).collect()
}

/// Whether SAFETY stands on `line`, or above the statement that `line` belongs to.
fn is_justified(source: &Source, line: usize) -> bool {
    for (number, text, code) in source.lines().take(line).rev() {
        let comment = text.split_once("//").map_or("", |(_, comment)| comment);
        if comment.contains("SAFETY:") || comment.contains("# Safety") {
            return true;
        }
        let is_comment = code.trim().is_empty() && !text.trim().is_empty();
        if number < line && !is_comment && !continues(code) {
            return false;
        }
    }
    false
}

/// Whether the statement goes on behind this line.
fn continues(code: &str) -> bool {
    let code = code.trim_end();
    !code.is_empty() && !code.ends_with([';', '{', '}'])
}

fn sleeps(source: &Source) -> Vec<Fault> {
    let is_test = source.path.starts_with("tests/") || source.path.contains("/tests/");
    if !is_test {
        return Vec::new();
    }
    let text: Vec<&str> = source.text.lines().collect();
    let unmarked = |line: &usize| !text[line - 1].contains(POLL_MARK);
    let remedy = format!("wait for an observable with a deadline; a loop that does may mark its pause `{POLL_MARK}`");
    let fault = |line| Fault::new(&source.path, line, "tests do not sleep", remedy.as_str());
    source.calls("sleep").into_iter().filter(unmarked).map(fault).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, text: &str, expected: &[(usize, &str)]) {
        let source = Source::parse(path, text);
        let found: Vec<(usize, &str)> = faults(&source).iter().map(|fault| (fault.line, fault.rule)).collect();
        assert_eq!(found, expected, "{path}:\n{text}");
    }

    #[test]
    fn a_fault_is_found_and_nothing_else_is() {
        let long = |lines: usize| format!("//! x\nfn f() {{\n{}}}\n", "x();\n".repeat(lines - 2));
        check("crates/a/src/lib.rs", &long(70), &[]);
        check("crates/a/src/lib.rs", &long(71), &[(2, "functions have at most 70 lines")]);
        check("crates/a/src/lib.rs", &format!("//!{}", "\n".repeat(600)), &[]);
        check("crates/a/src/lib.rs", &format!("//!{}", "\n".repeat(601)), &[(601, "files have at most 600 lines")]);
        check("crates/a/src/a.rs", "fn f() {}\n", &[(1, "modules open with //!")]);
        check("crates/a/src/a/tests.rs", "fn f() {}\n", &[]);
        check("tests/tests.rs", "fn f() {}\n", &[(1, "modules open with //!")]);
        let rule = "unsafe code stands in gate-sys only";
        check("crates/a/src/a.rs", "//! x\n// SAFETY: no\nunsafe {}\n", &[(3, rule)]);
    }

    #[test]
    fn unsafe_code_is_justified_above_its_statement() {
        let rule = "unsafe code has a SAFETY comment";
        let home = "crates/gate-sys/src/a.rs";
        check(home, "//! x\n// SAFETY: y\n// and z.\nlet a = b(\n  unsafe { c });\n", &[]);
        check(home, "//! x\n/// # Safety\n/// y\npub unsafe fn f();\n", &[]);
        check(home, "//! x\nlet a = unsafe { b };\n", &[(2, rule)]);
        check(home, "//! x\n// SAFETY: y\nlet a = 1;\nlet b = unsafe { c };\n", &[(4, rule)]);
        check(home, "//! x\n// SAFETY: y\n\nlet b = unsafe { c };\n", &[(4, rule)]);
    }

    #[test]
    fn tests_poll_and_do_not_sleep() {
        let rule = "tests do not sleep";
        check("crates/a/tests/it/a.rs", "//! x\nthread::sleep(x); // bounded poll\n", &[]);
        check("tests/a.rs", "//! x\n\"sleep(\"; // sleep(\nfn no_sleep() {}\nthread::sleep(x);\n", &[(4, rule)]);
        check("crates/a/src/a.rs", "//! x\nsleep(x);\n", &[]);
    }

    #[test]
    fn a_crate_root_says_so_in_code() {
        let faults = |path: &str, text: &str| crate_root(&Source::parse(path, text)).len();
        assert_eq!(faults("crates/a/src/lib.rs", "//! x\n#![forbid(unsafe_code)]\n"), 0);
        assert_eq!(faults("crates/a/src/lib.rs", "//! #![forbid(unsafe_code)]\n"), 1);
        assert_eq!(faults("crates/gate-sys/src/lib.rs", "//! x\n"), 0);
    }
}
