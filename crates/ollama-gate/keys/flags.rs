//! The flags of the command, and what they ask for.
//!
//! The flags of a policy are its words; what they may hold is said by the reader of the key file.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use gate_config::keyfile::{Policy, WORDS, is_name};

use super::list::Form;
use super::times::{Expiry, expiry, span};
use super::{Errand, Task};

const EXIT_CODES: &str = "Exit codes: 0 done, 1 refused, and nothing is changed but by revoke, 64 usage, 69 the gate \
does not answer, or a key is revoked in the file and no gate was told, 70 a bug, 77 the gate may not be asked, 78 the key file is not as it should be, or cannot be found.";

/// What each word of a policy gets a flag for: the value's name, and the help.
const POLICY: [(&str, &str); WORDS.len()] = [
    ("RATE", "Requests: 60/minute, 60/minute,1000/hour, or none; else the gate's own limits"),
    ("RATE", "Tokens, asked and answered: 100000/hour"),
    ("N", "Requests at once"),
    ("MODELS", "Models, with * for any letters: llama3.2,qwen3:*; else all that are local"),
    ("ROUTES", "Routes: infer, read, manage, or names such as chat,tags,pull; else infer,read"),
    ("N", "The largest context that may be asked for"),
    ("N", "The longest answer, in tokens"),
    ("TIME", "How long a model may be asked to stay in memory: 10m"),
    ("N", "Images in one request"),
    ("N", "Messages in one request"),
    ("N", "Its share of the queue beside others', from 1 to 100; else that of the client's address"),
];

/// The command, for clap.
pub(crate) fn definition() -> Command {
    let sub = |name: &'static str, about: &'static str, example: &str| {
        Command::new(name).about(about).after_help(format!("Example: ollama-gate key {example}\n\n{EXIT_CODES}"))
    };
    let name = || Arg::new("name").value_name("NAME").value_parser(name);
    let expires = Arg::new("expires").long("expires").value_name("WHEN").value_parser(expiry);
    let new =
        sub("new", "Make a key, and print it: this once", "new --keys keys --name ada --limit 60/minute --expires 90d")
            .arg(name().long("name").required(true).help("Whose it is: letters, digits, `.`, `_`, `@` and `-`"))
            .args(WORDS.iter().zip(POLICY).map(|(word, (value, help))| flag(word, value, help)))
            .arg(expires.clone().help("Until when it is good: 90d, 12h, 2027-01-01; else for ever"));
    let list = sub("list", "Show all keys but what they read", "list --keys keys")
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("As one line of JSON"));
    let revoke = sub("revoke", "End keys at once", "revoke --keys keys ada 4c0d9v2h7mzk").arg(
        Arg::new("wanted")
            .value_name("ID|NAME")
            .required(true)
            .num_args(1..)
            .help("A key's id, or a name for all its keys"),
    );
    let rotate = sub("rotate", "Give a name another key, and print it: this once", "rotate --keys keys ada --grace 7d")
        .arg(name().required(true).help("Whose"))
        .arg(
            Arg::new("grace")
                .long("grace")
                .value_name("TIME")
                .default_value("24h")
                .value_parser(span)
                .help("How long its other keys go on, with s, m, h, d or w"),
        )
        .arg(expires.help("Until when the new one is good; else for as long as the newest of the others was"));
    let all = [new, list, revoke, rotate].map(|command| command.args(places()));
    Command::new("key")
        .about("Make, list, revoke or rotate the keys of clients")
        .after_help(
            "A name is a client: its keys count together, so their lines in the file must have the same limit, tokens and \
             concurrency.",
        )
        .subcommand_required(true)
        .subcommands(all)
}

fn flag(word: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(word).long(word.replace('_', "-")).value_name(value).help(help).allow_hyphen_values(true)
}

fn places() -> [Arg; 3] {
    let path = |name: &'static str, value: &'static str| {
        Arg::new(name).long(name).value_name(value).value_parser(value_parser!(PathBuf))
    };
    [
        path("keys", "FILE").help("The key file [OLLAMA_GATE_KEYS, keys in the file of --config]"),
        path("control", "PATH").help("The control socket of the gate to tell; found as by `ollama-gate status`"),
        path("config", "FILE").short('c').help("The gate's configuration file, to find both"),
    ]
}

fn name(text: &str) -> Result<String, String> {
    let named = is_name(text).then(|| text.to_owned());
    named.ok_or_else(|| "write 1 to 64 letters, digits, `.`, `_`, `@` or `-`".to_owned())
}

impl Errand {
    /// What these matches of [`definition`] ask.
    ///
    /// # Errors
    /// What is wrong with the words of a policy.
    pub(crate) fn of(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let (task, matches) = matches.subcommand().unwrap_or(("list", matches));
        let text = |name: &str| matches.try_get_one::<String>(name).ok().flatten().cloned();
        let name = text("name").unwrap_or_default();
        let expires = matches.try_get_one::<Expiry>("expires").ok().flatten().copied();
        let task = match task {
            "new" => Task::New { name, policy: policy(matches)?, expires },
            "revoke" => Task::Revoke(matches.get_many("wanted").into_iter().flatten().cloned().collect()),
            "rotate" => Task::Rotate { name, grace: matches.get_one("grace").copied().unwrap_or_default(), expires },
            _ if matches.get_flag("json") => Task::List(Form::Json),
            _ => Task::List(Form::Text),
        };
        let path = |name: &str| matches.get_one::<PathBuf>(name).cloned();
        Ok(Self { task, keys: path("keys"), control: path("control"), config: path("config") })
    }
}

/// The flags as words of a policy. Words hold no blanks, and rates read the same without.
fn policy(matches: &ArgMatches) -> Result<String, clap::Error> {
    let word = |word: &&str| {
        let value: &String = matches.get_one(word)?;
        Some(format!("{word}={}", value.replace(char::is_whitespace, "")))
    };
    let words: Vec<String> = WORDS.iter().filter_map(word).collect();
    let text = words.join(" ");
    match Policy::parse(&text) {
        Ok(_) => Ok(text),
        Err(error) => Err(clap::Error::raw(clap::error::ErrorKind::ValueValidation, format!("{error}\n"))),
    }
}
