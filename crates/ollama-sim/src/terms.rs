//! The options that a model is loaded with. Requests that differ in one of them cannot share a runner. Nothing here
//! loads; the types of the values were judged before.

use std::time::Duration;

use serde_json::{Map, Value};

/// Ollama's least context.
const NUM_CTX_MIN: i64 = 4;

/// What a request wants of the scheduler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) terms: Terms,
    /// How long the model stays after it; as it was going to where the request does not say.
    pub(crate) keep_alive: Option<Duration>,
}

/// The options of a runner; what a request does not say is Ollama's default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    /// The model's own where it was not said.
    num_ctx: Option<i64>,
    num_batch: i64,
    /// Below 0 for Ollama's own choice.
    num_gpu: i64,
    main_gpu: Option<i64>,
    use_mmap: Option<bool>,
    num_thread: i64,
    draft_num_predict: i64,
    /// A member of the request beside its options.
    pub(crate) shift: bool,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            num_ctx: None,
            num_batch: 512,
            num_gpu: -1,
            main_gpu: None,
            use_mmap: None,
            num_thread: 0,
            draft_num_predict: 4,
            shift: true,
        }
    }
}

impl Terms {
    /// Takes over what these options say; other types than the right ones say nothing.
    pub(crate) fn take(&mut self, options: &Map<String, Value>) {
        // Go cuts floats off.
        let whole = |name| options.get(name).and_then(Value::as_f64).map(|number| number as i64);
        self.num_ctx = whole("num_ctx").or(self.num_ctx);
        self.num_batch = whole("num_batch").unwrap_or(self.num_batch);
        self.num_gpu = whole("num_gpu").unwrap_or(self.num_gpu);
        self.main_gpu = whole("main_gpu").or(self.main_gpu);
        self.use_mmap = options.get("use_mmap").and_then(Value::as_bool).or(self.use_mmap);
        self.num_thread = whole("num_thread").unwrap_or(self.num_thread);
        self.draft_num_predict = whole("draft_num_predict").unwrap_or(self.draft_num_predict);
    }

    /// The same for a model with this context.
    pub(crate) fn of_model(self, context_length: u32) -> Self {
        let num_ctx = self.num_ctx.unwrap_or(i64::from(context_length)).max(NUM_CTX_MIN);
        Self { num_ctx: Some(num_ctx), ..self }
    }

    /// The context in tokens; 0 before it is known.
    pub(crate) fn context_length(&self) -> u64 {
        self.num_ctx.unwrap_or_default().unsigned_abs()
    }

    /// Whether a runner on these terms serves a request on those.
    pub(crate) fn serve(&self, asked: &Self) -> bool {
        let num_gpu = if asked.num_gpu < 0 { asked.num_gpu } else { self.num_gpu };
        Self { num_gpu, ..*self } == *asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(options: &str) -> Terms {
        let mut terms = Terms::default();
        terms.take(&serde_json::from_str(options).unwrap());
        terms.of_model(4096)
    }

    #[test]
    fn a_runner_serves_what_it_was_loaded_for() {
        let cases = [
            ("{}", r#"{"temperature":1,"num_predict":3,"num_ctx":null}"#, true),
            ("{}", r#"{"num_ctx":4096,"num_batch":512.9,"num_gpu":-1,"num_thread":0,"draft_num_predict":4}"#, true),
            (r#"{"num_ctx":1}"#, r#"{"num_ctx":4}"#, true),
            ("{}", r#"{"num_ctx":8192}"#, false),
            (r#"{"num_ctx":8192}"#, "{}", false),
            ("{}", r#"{"num_batch":256}"#, false),
            ("{}", r#"{"num_gpu":0}"#, false),
            (r#"{"num_gpu":0}"#, r#"{"num_gpu":-1}"#, true),
            (r#"{"num_gpu":0}"#, r#"{"num_gpu":1}"#, false),
            ("{}", r#"{"main_gpu":0}"#, false),
            ("{}", r#"{"use_mmap":true}"#, false),
            ("{}", r#"{"num_thread":2}"#, false),
            ("{}", r#"{"draft_num_predict":0}"#, false),
        ];
        for (own, asked, wanted) in cases {
            assert_eq!(terms(own).serve(&terms(asked)), wanted, "{own} for {asked}");
        }
        let shifting = terms("{}");
        assert!(!shifting.serve(&Terms { shift: false, ..shifting }));
    }

    #[test]
    fn the_context_is_the_models_unless_asked_for() {
        assert_eq!((terms("{}").context_length(), terms(r#"{"num_ctx":100}"#).context_length()), (4096, 100));
    }
}
