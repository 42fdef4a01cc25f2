//! What was found, and every attack that somebody thought of, through every target it was meant for.

use std::{fs, path::Path};

#[test]
fn the_corpus_keeps_every_rule() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus");
    for (name, target) in fuzz_targets::ALL {
        let mut inputs: Vec<_> =
            fs::read_dir(corpus.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        inputs.sort();
        assert!(inputs.len() >= 10, "{name}: a corpus of {}", inputs.len());
        for input in inputs {
            let data = fs::read(&input).unwrap();
            let kept = std::panic::catch_unwind(|| target(&data));
            assert!(kept.is_ok(), "{} breaks a rule of {name}", input.display());
        }
    }
}
