//! The segment index, grown in pieces, against counting collisions one key at a time.

use lsh_attn::collisions::Collisions;
use lsh_attn::hash::{HashPlan, Hasher};
use lsh_attn::kernels::Kernels;
use lsh_attn::rows::widen;
use lsh_attn::segment_index::SegmentIndex;
use lsh_attn::stored_runs::{StoredRuns, encode};

use crate::support::{Random, bf16, rows};

#[test]
fn a_grown_index_samples_what_counting_says() {
    let kernels = Kernels::detect().expect("MAGICPIG_ISA names an available instruction set");
    let (dim, count, first) = (64, 3000, 4);
    let mut random = Random::new(21);
    let keys: Vec<f32> = random.normals(count * dim).iter().map(|x| x + 0.5).collect();
    let rows = rows(&keys, &keys, dim);
    let plan = HashPlan::new(dim, 6, 40, 22);

    let mut index = SegmentIndex::new(first);
    // The same index, all of whose tables are stored each time it has grown by many rows.
    let mut kept = SegmentIndex::new(first);
    let (mut words, mut rooms) = (Vec::new(), Vec::new());
    let mut ends = vec![260, 261, 700, 1000, 1017, 1300, 2999];
    ends.push(count);
    for end in ends {
        index.extend(kernels, &plan, bf16(&rows, dim), end);
        assert_eq!(index.end(), end);
        // Going back is not growing.
        index.extend(kernels, &plan, bf16(&rows, dim), end - 1);
        assert_eq!(index.end(), end);

        let q = random.normals(dim);
        let mut hasher = Hasher::new(&plan);
        let mut codes = |x: &[f32]| -> Vec<u16> {
            hasher.hash(kernels, &plan, 1, |_, j| x[j]).iter().map(|lanes| lanes[0]).collect()
        };
        let query = codes(&q);
        let centred = |id: usize| -> Vec<f32> {
            rows[id * 2 * dim..][..dim].iter().zip(index.centre()).map(|(&k, c)| widen(k) - c).collect()
        };
        let collides =
            |id: &usize| codes(&centred(*id)).iter().zip(&query).filter(|(a, b)| a == b).count() >= 2;
        let expected: Vec<u16> = (first..end).filter(collides).map(|id| id as u16).collect();
        let mut sample = Vec::new();
        index.view(StoredRuns::NONE).sample(kernels, &query, &mut Collisions::default(), &mut sample, || ());
        assert!(
            !sample.is_empty() && sample.len() < end / 2,
            "a test of {} of {end} shows little",
            sample.len()
        );
        assert_eq!(sample, expected);

        kept.extend(kernels, &plan, bf16(&rows, dim), end);
        if kept.rows_here() >= 200 {
            kept.gather(StoredRuns::NONE);
            rooms.push(kept.rows_here() + 3);
            words.extend(encode(6, 40, kept.run(), kept.norms_here(), kept.rows_here() + 3));
            kept.release();
        }
        let stored = StoredRuns::new(6, 40, &words, &rooms).expect("as many words as they need");
        assert_eq!(stored.iter().count(), rooms.len());
        sample.clear();
        kept.view(stored).sample(kernels, &query, &mut Collisions::default(), &mut sample, || ());
        assert_eq!(sample, expected);

        let norm: f32 = centred(end - 1).iter().map(|x| x * x).sum::<f32>().sqrt();
        let mut norms = Vec::new();
        index.view(StoredRuns::NONE).norms_of(&[(end - 1) as u16], &mut norms);
        assert!((norms[0] / norm - 1.0).abs() < 5e-4);
    }
    assert!(rooms.len() > 1 && kept.rows_here() > 0);
    let ids_and_norms = (count - first) * (2 * plan.tables() + 2);
    let offsets = 2 * plan.tables() * (plan.buckets() + 1);
    assert!(
        index.bytes() <= ids_and_norms + 6 * offsets + 4 * dim,
        "runs are merged: {} bytes",
        index.bytes()
    );
}
