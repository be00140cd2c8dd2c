use super::*;

fn read(text: &str) -> Vec<Upstream> {
    upstreams(text).unwrap_or_else(|Faults(faults)| panic!("{text:?}: {:?}", faults[0].remedy))
}

/// Every fault as `[item].field = value: remedy`.
fn wrong(text: &str) -> Vec<String> {
    let Err(Faults(faults)) = upstreams(text) else { panic!("{text:?} is accepted") };
    let shown = faults.iter().map(|fault| match &fault.place {
        Some((item, field)) => format!("[{item}].{field} = {}: {}", fault.value, fault.remedy),
        None => fault.remedy.clone(),
    });
    shown.collect()
}

#[test]
fn texts_and_what_they_mean() {
    let slots_of_the_key = 256;
    for (text, shown) in [
        ("gpu1", "http://gpu1:11434"),
        ("a:1,b:1", "http://a:1;http://b:1"),
        ("a:1\nb:1\n", "http://a:1;http://b:1"),
        ("a:1 name=ollama-1 weight=1 models=", "http://a:1"),
        ("a:1 slots=256", "http://a:1 slots=256"),
        ("a models=x,y:1b,x slots=04 weight=2 name=gpu.1", "http://a:11434 name=gpu.1 weight=2 slots=4 models=x,y:1b"),
        ("a;b name=ollama-1x", "http://a:11434;http://b:11434 name=ollama-1x"),
        ("dns=gpu:80/p slots=2, dns=_ollama._tcp.example", "dns=gpu:80/p slots=2;dns=_ollama._tcp.example"),
        ("\"unix:/run/a b.sock\" slots=1", "\"unix:/run/a b.sock\" slots=1"),
        ("slots=1 url=http://a/x=y", "http://a:80/x=y slots=1"),
    ] {
        let mut upstreams = read(text);
        // As long as the key is not known, its value can only be the one that nobody can write.
        assert_eq!(upstreams_text(&upstreams, AS_THE_KEY), shown, "{text:?}");
        assert_eq!(read(shown), upstreams, "{shown:?}");
        for upstream in &mut upstreams {
            upstream.default_slots(slots_of_the_key);
        }
        assert!(upstreams.iter().all(|upstream| upstream.slots > 0), "{text:?}");
        assert_eq!(upstreams_text(&upstreams, slots_of_the_key), shown.replace(" slots=256", ""), "{text:?}");
    }
}

#[test]
fn every_field_is_read() {
    let [first, second] = &read("http://gpu1/p name=gpu1 slots=4 weight=2 models=llama3.2,qwen3:8b; unix:/run/o")[..]
    else {
        panic!("two backends")
    };
    assert_eq!((first.name.as_str(), first.url().as_str()), ("gpu1", "http://gpu1:80/p"));
    assert_eq!((first.slots, first.weight), (4, 2));
    assert_eq!(first.models, ["llama3.2", "qwen3:8b"]);
    assert_eq!((second.name.as_str(), second.url().as_str()), ("ollama-2", "unix:/run/o"));
    assert_eq!((second.slots, second.weight, second.models.len()), (AS_THE_KEY, 1, 0));
}

#[test]
fn refusals() {
    for (text, fault) in [
        ("", "write at least one backend"),
        (" ;\n", "write at least one backend"),
        ("a,", "nothing stands beside a comma"),
        ("a \"b", "a quote is not closed"),
        ("https://a", "[1].url = https://a: https is not there yet"),
        ("a;a:0", "[2].url = a:0: write a port"),
        ("a slots=0", "[1].slots = 0: write a whole number from 1 to 256"),
        ("a slots=257", "[1].slots = 257: write a whole number from 1 to 256"),
        ("a weight=101", "[1].weight = 101: write a whole number from 1 to 100"),
        ("a name=", "[1].name = : write a name of 1 to 64"),
        ("a name=x/y", "[1].name = x/y: write a name of 1 to 64"),
        ("a models=x,http://b", "[1].models = x,http://b: http://b is no model: write `;`"),
        ("a models=x,;b", "[1].models = x,: write models as `a,b`"),
        ("a slot=1", "[1].slot = 1: a backend has no `slot`; did you mean `slots`?"),
        ("a colour=1", "[1].colour = 1: a backend has no `colour`; it has `url`, `dns`, `name`"),
        ("a slots=1 slots=2", "[1].slots = 2: write `slots` only once"),
        ("a b", "[1]. = b: write the URL first"),
        ("slots=1", "[1]. = : the backend's `url` or `dns` is missing"),
        ("a dns=b", "[1].dns = b: the backend has a URL already"),
        ("dns=10.0.0.1", "[1].dns = 10.0.0.1: an address needs no look-up"),
        ("a;b;A:11434", "[3].url = http://a:11434: upstream[1] has it already"),
        ("a;dns=b;dns=b:11434", "[3].url = dns:b:11434: upstream[2] has it already"),
        ("a name=x;b name=x", "[2].name = x: upstream[1] has it already"),
        ("a name=ollama-2;b", "[2].name = ollama-2: upstream[1] has it already"),
    ] {
        let faults = wrong(text);
        assert_eq!(faults.len(), 1, "{text:?}: {faults:#?}");
        assert!(faults[0].starts_with(fault), "{text:?}: {faults:#?}");
    }
}

#[test]
fn every_fault_is_told() {
    let faults = wrong("https://a slots=0 x=1;b weight=0 name=n;c name=n models=-");
    let places = ["[1].x", "[1].url", "[1].slots", "[2].weight", "[3].models", "[3].name"];
    assert_eq!(faults.len(), places.len(), "{faults:#?}");
    for (fault, place) in faults.iter().zip(places) {
        assert!(fault.starts_with(place), "{faults:#?}");
    }
}

#[test]
fn lists_are_bounded() {
    let hosts = |count: usize| (1..=count).map(|host| format!("gpu{host}")).collect::<Vec<_>>().join(",");
    assert_eq!(read(&hosts(UPSTREAMS_MAX)).len(), UPSTREAMS_MAX);
    assert_eq!(wrong(&hosts(UPSTREAMS_MAX + 1)), ["write at most 32 backends"]);
    let models = |count: usize| (1..=count).map(|model| format!("m{model}")).collect::<Vec<_>>().join(",");
    assert_eq!(read(&format!("a models={}", models(MODELS_MAX)))[0].models.len(), MODELS_MAX);
    assert!(wrong(&format!("a models={}", models(MODELS_MAX + 1)))[0].ends_with("write at most 256 models"));
    let name = "n".repeat(NAME_BYTES_MAX);
    assert_eq!(read(&format!("a name={name}"))[0].name, name);
    assert_eq!(wrong(&format!("a name={name}n")).len(), 1);
}

#[test]
fn differences_are_told_in_full_and_sameness_as_a_number() {
    for (old, new, told_old, told_new) in [
        ("a slots=1", "b slots=1", "http://a:11434 name=ollama-1 slots=1", "http://b:11434 name=ollama-1 slots=1"),
        ("a slots=1", "a slots=2", "http://a:11434 name=ollama-1 slots=1", "http://a:11434 name=ollama-1 slots=2"),
        (
            "a slots=1,b slots=1",
            "a slots=1,b slots=1 weight=2,c name=c slots=1 models=x,y",
            "http://b:11434 name=ollama-2 slots=1; 1 as before",
            "http://b:11434 name=ollama-2 weight=2 slots=1; http://c:11434 name=c slots=1 models=x,y; 1 as before",
        ),
        (
            "a slots=1,b slots=1,c slots=1",
            "a slots=1,b slots=1",
            "http://c:11434 name=ollama-3 slots=1; 2 as before",
            "2 as before",
        ),
        (
            "a name=a slots=1,dns=b name=b slots=1",
            "dns=b name=b slots=1,a name=a slots=1",
            "http://a:11434 name=a slots=1; dns=b:11434 name=b slots=1",
            "dns=b:11434 name=b slots=1; http://a:11434 name=a slots=1",
        ),
    ] {
        assert_eq!(difference(&read(old), &read(new)), (told_old.to_owned(), told_new.to_owned()), "{old} -> {new}");
    }
}

#[test]
fn a_flood_of_anything_is_refused() {
    for text in [";", "\"", "a ", "a;", "\\", "a=b ", "slots=1 "] {
        assert!(upstreams(&text.repeat(20_000)).is_err(), "{text}");
    }
}
