//! Rows brought from one place to another.
//!
//! Must not know: models, engine.

use super::*;
use crate::gpu::{reference, rows};
use crate::testing::Numbers;

#[test]
fn tokens_become_their_embeddings() {
    let gpu = Emulated::gpu();
    for (vocab, width) in [(3, 8), (50, 48), (7, 4096)] {
        let mut numbers = Numbers::new(vocab as u64);
        let table: Vec<half::bf16> = numbers.normal(vocab * width).iter().map(|&x| half::bf16::from_f32(x)).collect();
        let ids: Vec<u32> = (0..5).map(|_| numbers.below(vocab) as u32).chain([vocab as u32]).collect();
        let table_on = gpu.upload(&table).unwrap();
        let ids_on = gpu.upload(&ids).unwrap();
        let residual = gpu.alloc(ids.len() * width * 4).unwrap();
        rows::embed(&gpu, Element::Bf16, table_on.all(), ids_on.all(), residual.all(), ids.len(), width, vocab)
            .unwrap();
        let wide: Vec<f32> = table.iter().map(|x| x.to_f32()).collect();
        assert_eq!(residual.all().read::<f32>(ids.len() * width).unwrap(), reference::rows::embed(&wide, &ids, width));
    }
}
