use super::*;
use std::num::NonZeroUsize;
use std::pin::Pin;

/// How long a model takes to load.
const LOAD: Duration = Duration::from_millis(50);
/// Less than any load: what has not happened by then waits for something.
const SOON: Duration = Duration::from_millis(1);

/// Three models with one slot each.
fn residence(change: impl FnOnce(&mut Config)) -> Residence {
    let models = ["Small", "medium", "large"].map(|name| Model { load_time: LOAD, ..Model::named(name) });
    let mut config = Config { models: models.to_vec(), slots: NonZeroUsize::MIN, ..Config::default() };
    change(&mut config);
    Residence::new(&config)
}

fn num_ctx(tokens: i64) -> Wish {
    let mut wish = Wish::default();
    wish.terms.take(serde_json::json!({ "num_ctx": tokens }).as_object().unwrap());
    wish
}

fn keep(keep_alive: Duration) -> Wish {
    Wish { keep_alive: Some(keep_alive), ..Wish::default() }
}

/// A request that can be looked at again and again, and given up.
type Request<'a> = Pin<Box<dyn Future<Output = Result<Lease, Busy>> + 'a>>;

impl Residence {
    fn ask(&self, name: &str, wish: Wish) -> Request<'_> {
        let seat = self.seat(name).unwrap();
        Box::pin(async move { self.admit(&seat, wish).await })
    }

    async fn have(&self, name: &str) -> Lease {
        end(self.ask(name, Wish::default())).await.unwrap()
    }

    fn names(&self) -> Vec<String> {
        self.resident().iter().map(|one| one.model.name.clone()).collect()
    }
}

async fn waits(request: &mut Request<'_>) -> bool {
    tokio::time::timeout(SOON, request).await.is_err()
}

/// The end of a request that is to come by itself.
async fn end(request: Request<'_>) -> Result<Lease, Busy> {
    tokio::time::timeout(LOAD * 10, request).await.expect("it waits for nothing any more")
}

#[test]
fn names_match_in_any_case_and_with_latest() {
    let residence = residence(|_| ());
    for name in ["small", "SMALL:latest", "Small"] {
        assert!(residence.seat(name).is_some(), "{name}");
    }
    for name in ["", "small:1b", "other"] {
        assert!(residence.seat(name).is_none(), "{name}");
    }
    assert!(Residence::new(&Config::echo()).seat("other").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_model_loads_once_and_leaves_when_told() {
    let residence = residence(|_| ());
    assert_eq!(residence.have("small").await.load, LOAD);
    assert_eq!(end(residence.ask("small", keep(Duration::ZERO))).await.unwrap().load, Duration::ZERO);
    assert_eq!(residence.names(), [""; 0], "keep_alive 0 unloads");
    assert_eq!(residence.have("small").await.load, LOAD);
    residence.unload(&residence.seat("small").unwrap());
    assert_eq!(residence.names(), [""; 0]);
    assert_eq!(residence.loads(), Loads { begun: 2, ..Loads::default() });
}

#[tokio::test(start_paused = true)]
async fn a_model_leaves_when_nobody_has_used_it_for_long_enough() {
    let residence = residence(|config| config.keep_alive = Duration::from_secs(60));
    let lease = residence.have("small").await;
    tokio::time::advance(Duration::from_secs(61)).await;
    assert_eq!(residence.names(), ["Small"], "it is in use");
    drop(lease);
    tokio::time::advance(Duration::from_secs(59)).await;
    let expires_at = residence.resident()[0].expires_at;
    assert_eq!(expires_at.duration_since(residence.epoch.1).unwrap(), Duration::from_secs(121) + LOAD);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(residence.names(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn the_queue_has_an_end_and_the_slot_comes_back() {
    let residence = residence(|config| config.queue = 1);
    let first = residence.have("small").await;
    let mut second = residence.ask("small", Wish::default());
    assert!(waits(&mut second).await);
    assert_eq!(residence.waiting(), 1);
    assert!(end(residence.ask("small", Wish::default())).await.is_err(), "the queue is full");
    drop(first);
    let second = end(second).await.unwrap();
    assert_eq!((second.load, second.waited), (Duration::ZERO, SOON));
    assert_eq!(residence.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn slots_have_a_line_without_end_where_none_is_set() {
    let residence = residence(|config| config.load_queue = 0);
    let _first = residence.have("small").await;
    let mut others: Vec<_> = (0..1000).map(|_| residence.ask("small", Wish::default())).collect();
    for other in &mut others {
        assert!(waits(other).await);
    }
    assert_eq!((residence.waiting(), residence.pending()), (1000, 0));
}

#[tokio::test(start_paused = true)]
async fn a_full_memory_gives_up_who_is_idle() {
    let residence = residence(|config| config.memory = 2);
    let first = residence.have("small").await;
    drop(residence.have("medium").await);
    let third = residence.have("large").await;
    assert_eq!((third.load, residence.names()), (LOAD, vec!["Small".to_owned(), "large".to_owned()]));
    drop((first, third));
    assert_eq!(residence.have("medium").await.load, LOAD, "it has to come back, in place of the oldest");
    assert_eq!(residence.names(), ["large", "medium"]);
    assert_eq!(residence.loads(), Loads { begun: 4, swaps: 2, ..Loads::default() });
}

#[tokio::test(start_paused = true)]
async fn whose_turn_it_is_holds_up_all_but_loaded_models() {
    let residence = residence(|config| config.memory = 2);
    let busy = [residence.have("small").await, residence.ask("medium", keep(Duration::from_secs(1))).await.unwrap()];
    let mut head = residence.ask("large", Wish::default());
    assert!(waits(&mut head).await, "all memory is in use");
    let mut behind = residence.ask("small", num_ctx(100));
    assert!(waits(&mut behind).await, "it needs a load as well");
    assert_eq!((residence.pending(), residence.waiting()), (2, 0));
    let mut loaded = residence.ask("small", Wish::default());
    assert!(waits(&mut loaded).await, "it passes by the line and waits for a slot");
    assert_eq!((residence.pending(), residence.waiting()), (2, 1));

    let [small, medium] = busy;
    drop(small);
    let loaded = end(loaded).await.unwrap();
    assert!(waits(&mut head).await, "medium was to go, since it is kept for the shortest time");
    drop(medium);
    assert!(waits(&mut head).await, "it loads");
    drop(loaded);
    assert!(waits(&mut behind).await, "small could be loaded anew now, but large loads");
    assert_eq!(residence.names(), ["Small"], "what loads is not there yet");
    let (large, small) = (end(head).await.unwrap(), end(behind).await.unwrap());
    assert_eq!(residence.names(), ["large", "Small"]);
    assert!(large.load > LOAD && small.load > LOAD * 2, "{:?} {:?}", large.load, small.load);
    assert_eq!(residence.loads(), Loads { begun: 4, swaps: 1, reloads: 1, ..Loads::default() });
}

#[tokio::test(start_paused = true)]
async fn other_options_load_anew_when_those_in_flight_have_ended() {
    let residence = residence(|_| ());
    let old = residence.have("small").await;
    let mut new = residence.ask("small", num_ctx(100));
    assert!(waits(&mut new).await);
    assert_eq!(residence.resident()[0].context_length, 4096);
    drop(old);
    drop(end(new).await.unwrap());
    let resident = residence.resident();
    assert_eq!((resident.len(), resident[0].context_length), (1, 100));
    assert_eq!(end(residence.ask("small", num_ctx(100))).await.unwrap().load, Duration::ZERO);
    assert_eq!(residence.have("small").await.load, LOAD, "nothing said is the model's own context");
    assert_eq!(residence.loads(), Loads { begun: 3, reloads: 2, ..Loads::default() });
}

#[tokio::test(start_paused = true)]
async fn who_leaves_while_loading_ends_the_load_for_the_others_too() {
    let residence = residence(|_| ());
    let mut first = residence.ask("small", Wish::default());
    assert!(waits(&mut first).await);
    let mut second = residence.ask("small", Wish::default());
    assert!(waits(&mut second).await, "it waits for the same load");
    assert_eq!(residence.pending(), 1);
    drop(first);
    assert_eq!(residence.loads(), Loads { begun: 1, aborted: 1, ..Loads::default() });
    assert_eq!(end(second).await.unwrap().load, SOON + LOAD, "it loads itself");
    assert_eq!(residence.loads().begun, 2);
}

#[tokio::test(start_paused = true)]
async fn many_wait_for_one_load() {
    let residence = residence(|config| config.slots = NonZeroUsize::MAX);
    let both = tokio::join!(residence.have("small"), residence.have("small"), residence.have("small"));
    assert_eq!([both.0.load, both.1.load, both.2.load], [LOAD; 3]);
    assert_eq!(residence.loads().begun, 1);
}

#[tokio::test(start_paused = true)]
async fn who_leaves_the_line_gives_its_place_back_but_not_the_memory() {
    let residence = residence(|config| config.memory = 1);
    let busy = residence.have("small").await;
    let mut head = residence.ask("medium", Wish::default());
    let mut behind = residence.ask("large", Wish::default());
    assert!(waits(&mut head).await && waits(&mut behind).await);
    drop(head);
    assert!(waits(&mut behind).await);
    drop(behind);
    assert_eq!((residence.pending(), residence.names()), (0, vec!["Small".to_owned()]));
    drop(busy);
    assert_eq!(residence.names(), [""; 0], "it was told to go");
    assert_eq!(residence.loads(), Loads { begun: 1, ..Loads::default() });
}

#[tokio::test(start_paused = true)]
async fn the_line_for_loads_has_an_end_and_bounds_nothing_else() {
    let residence = residence(|config| config.load_queue = 1);
    drop(residence.have("small").await);
    let mut loads = residence.ask("medium", Wish::default());
    let mut behind = residence.ask("large", Wish::default());
    assert!(waits(&mut loads).await && waits(&mut behind).await);
    assert_eq!(residence.pending(), 2);
    assert!(end(residence.ask("large", Wish::default())).await.is_err(), "two are in the line");
    assert!(end(residence.ask("small", num_ctx(100))).await.is_err(), "this is a load as well");
    assert_eq!(residence.have("small").await.load, Duration::ZERO, "no load, no line");
    let mut beside = residence.ask("medium", Wish::default());
    assert!(waits(&mut beside).await, "its model is loading already");
    drop(end(loads).await.unwrap());
    assert!(end(beside).await.is_ok() && end(behind).await.is_ok());
    assert_eq!(residence.pending(), 0);
}
