//! Axis files: round trips, checks against a model, and imports. The imported fixtures were written by NumPy and PyTorch
//! (`tests/peers/make_axis_fixtures.py`; versions in expected.json).

use std::{collections::BTreeMap, fs, path::PathBuf};

use tiltmeter_axis_formats::{ImportRequest, import};
use tiltmeter_model::{
    ModelCard,
    probe::{Axis, AxisFile, AxisOrigin, AxisStats, LayerConvention, Site, SiteAxis},
    problem::Problem,
};

const WIDTH: usize = 8;

fn fixture(name: &str) -> PathBuf {
    tiltmeter_test_support::paths::fixture("axis").join(name)
}

fn matrix() -> Vec<Vec<f32>> {
    let text = fs::read_to_string(fixture("expected.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    serde_json::from_value(json["matrix"].clone()).unwrap()
}

fn says(problem: &Problem, what: &str, hint: &str) {
    assert!(problem.what.contains(what), "{problem}");
    assert!(problem.hint.as_ref().is_some_and(|text| text.contains(hint)), "{problem}");
}

/// A file with directions at two sites.
fn example() -> AxisFile {
    let stats = AxisStats { mean_pos: Some(2.5), mean_neg: Some(-0.125), auroc: Some(0.97) };
    let sites = BTreeMap::from([
        (Site::BlockOut(1), SiteAxis { direction: vec![3.0, 0.0, -4.0], stats }),
        (Site::FinalNorm, SiteAxis { direction: vec![0.1, 1e-30, 7.0], stats: AxisStats::default() }),
    ]);
    let origin = AxisOrigin { method: "difference of means".into(), n: "64".into(), ..AxisOrigin::default() };
    let fingerprint = Some("sha256:aa".to_owned());
    let (name, sha256) = ("warmth".to_owned(), String::new());
    AxisFile { name, origin, fingerprint, hidden_size: 3, num_layers: Some(2), sites, sha256 }.with_sha256()
}

fn axis() -> Axis {
    example().axis(Some(Site::BlockOut(1))).unwrap()
}

mod files {
    use super::*;

    #[test]
    fn are_read_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("warmth.safetensors");
        fs::write(&path, example().to_bytes().unwrap()).unwrap();
        let read = AxisFile::open(&path).unwrap();
        assert_eq!(read, example());
        assert_eq!(read.axis(Some(Site::BlockOut(1))).unwrap().mean_pos, Some(2.5));
    }

    #[test]
    fn of_equal_content_have_equal_bytes() {
        let first = example().to_bytes().unwrap();
        for _ in 0..8 {
            assert_eq!(example().to_bytes().unwrap(), first);
        }
    }

    #[test]
    fn of_several_sites_ask_for_one() {
        says(&example().axis(None).unwrap_err(), "has 2 sites", "block.1.out, final_norm");
        says(&example().axis(Some(Site::Embed)).unwrap_err(), "no direction at embed", "block.1.out, final_norm");
        let mut single = example();
        single.sites.remove(&Site::FinalNorm);
        assert_eq!(single.axis(None).unwrap().site, Site::BlockOut(1));
    }

    #[test]
    fn that_are_damaged_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        says(&AxisFile::open(&folder.path().join("none")).unwrap_err(), "cannot read the axis", "path");
        says(&AxisFile::from_bytes(b"text").unwrap_err(), "not an axis file", "axis import");
        says(&AxisFile::open(&fixture("plain.safetensors")).unwrap_err(), "not an axis file", "axis import");
        let bytes = example().to_bytes().unwrap();
        for length in 0..bytes.len() {
            assert!(AxisFile::from_bytes(&bytes[..length]).is_err(), "cut at {length}");
        }
        // A changed byte is refused or gives another axis; none panics.
        for i in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[i] ^= 0x15;
            let _ = AxisFile::from_bytes(&changed);
        }
    }

    #[test]
    fn that_are_inconsistent_are_not_written() {
        let mut narrow = example();
        narrow.hidden_size = 4;
        says(&narrow.to_bytes().unwrap_err(), "3 dimensions instead of 4", "again");
        let mut shallow = example();
        shallow.num_layers = Some(1);
        says(&shallow.to_bytes().unwrap_err(), "block.1.out does not exist", "block.0.out");
        let mut empty = example();
        empty.sites.clear();
        says(&empty.to_bytes().unwrap_err(), "no direction at any site", "again");
    }
}

mod directions {
    use super::*;

    #[test]
    fn are_normalised() {
        assert_eq!(axis().unit().unwrap(), [0.6, 0.0, -0.8]);
        let vast = Axis { direction: vec![f32::MAX; 4], ..axis() };
        assert_eq!(vast.unit().unwrap(), [0.5; 4]);
        let tiny = Axis { direction: vec![0.0, -1e-38], ..axis() };
        assert_eq!(tiny.unit().unwrap(), [0.0, -1.0]);
        assert_eq!(axis().probe().unwrap().site, Site::BlockOut(1));
    }

    #[test]
    fn that_are_zero_or_not_finite_are_refused() {
        for (direction, why) in [(vec![0.0; 3], "is zero"), (vec![1.0, f32::NAN], "NaN"), (vec![f32::INFINITY], "NaN")]
        {
            says(&Axis { direction, ..axis() }.unit().unwrap_err(), why, "another site");
        }
    }
}

mod models {
    use super::*;

    fn card() -> ModelCard {
        let fingerprint = Some("sha256:aa".to_owned());
        let (hidden_size, num_layers) = (Some(3), Some(2));
        ModelCard { name: "quay".into(), fingerprint, hidden_size, num_layers, ..ModelCard::default() }
    }

    #[test]
    fn of_the_same_weights_are_accepted() {
        assert_eq!(axis().check(&card(), false), Ok(None));
    }

    #[test]
    fn of_unknown_weights_are_accepted_with_a_note() {
        let unknown = Axis { fingerprint: None, ..axis() };
        assert!(unknown.check(&card(), false).unwrap().unwrap().contains("does not record the weights"));
        let hidden = ModelCard { fingerprint: None, ..card() };
        assert!(axis().check(&hidden, false).unwrap().unwrap().contains("has no weights to compare"));
    }

    #[test]
    fn of_other_weights_or_shape_are_refused() {
        let other = ModelCard { fingerprint: Some("sha256:bb".into()), ..card() };
        let problem = axis().check(&other, false).unwrap_err();
        says(&problem, "other weights than those of quay", "accept_axis_of_other_model=true");
        assert!(problem.hint.unwrap().contains("--model quay"));
        assert!(axis().check(&other, true).unwrap().unwrap().contains("accepted by accept_axis_of_other_model"));
        let wide = ModelCard { hidden_size: Some(4), ..card() };
        says(&axis().check(&wide, true).unwrap_err(), "hidden size of 4", "built with this model");
        let shallow = ModelCard { num_layers: Some(1), ..card() };
        says(&axis().check(&shallow, true).unwrap_err(), "block.1.out does not exist", "block.0.out");
    }
}

mod imports {
    use super::*;

    fn request(name: &str) -> ImportRequest {
        ImportRequest { path: fixture(name), ..ImportRequest::default() }
    }

    fn blocks(name: &str) -> ImportRequest {
        ImportRequest { index_base: Some(LayerConvention::Block), ..request(name) }
    }

    #[test]
    fn read_the_same_matrix_in_every_form() {
        for name in [
            "matrix.npy",
            "matrix_f64.npy",
            "matrix_f16.npy",
            "matrix_fortran.npy",
            "one.npz",
            "bare.pt",
            "dict_bf16.pt",
            "dict_f16.pt",
            "strided.pt",
            "offset.pt",
            "parameter.pt",
            "plain.safetensors",
        ] {
            let file = import(&blocks(name)).unwrap_or_else(|problem| panic!("{name}: {problem}"));
            assert_eq!((file.hidden_size, file.sites.len()), (WIDTH, 5), "{name}");
            for (i, row) in matrix().iter().enumerate() {
                assert_eq!(&file.sites[&Site::BlockOut(i)].direction, row, "{name}, row {i}");
            }
            assert!(file.origin.method.contains(name) && !file.sha256.is_empty());
        }
    }

    #[test]
    fn of_hidden_states_end_in_the_final_norm() {
        let all = ImportRequest {
            index_base: Some(LayerConvention::HiddenStates),
            num_layers: Some(4),
            ..request("bare.pt")
        };
        let file = import(&all).unwrap();
        let sites = [Site::Embed, Site::BlockOut(0), Site::BlockOut(1), Site::BlockOut(2), Site::FinalNorm];
        assert!(file.sites.keys().eq(&sites));
        assert_eq!(file.sites[&Site::BlockOut(2)].direction, matrix()[3]);
        assert_eq!(file.sites[&Site::FinalNorm].direction, matrix()[4]);
        let one = ImportRequest { site: Some(Site::FinalNorm), ..all.clone() };
        assert!(import(&one).unwrap().sites.keys().eq(&[Site::FinalNorm]));
        says(
            &import(&ImportRequest { num_layers: None, ..all.clone() }).unwrap_err(),
            "may be the final norm or a block",
            "--num-layers",
        );
        says(
            &import(&ImportRequest { num_layers: Some(5), ..all.clone() }).unwrap_err(),
            "model of 5 blocks needs 6",
            "--index-base block",
        );
        says(
            &import(&ImportRequest { site: Some(Site::BlockOut(9)), ..all }).unwrap_err(),
            "no row for block.9.out",
            "block.2.out",
        );
    }

    #[test]
    fn never_guess_what_a_file_does_not_say() {
        says(&import(&request("matrix.npy")).unwrap_err(), "5 rows but not their layers", "--index-base hidden_states");
        says(&import(&request("vector.npy")).unwrap_err(), "one vector of 8 dimensions", "--site");
        says(&import(&blocks("several.npz")).unwrap_err(), "contains 2 tensors", "`axis` (float32 [5, 8])");
        says(&import(&blocks("nested.pt")).unwrap_err(), "contains 3 tensors", "`layers.4` (float32 [8])");
        let absent = ImportRequest { tensor: Some("absent".into()), ..blocks("several.npz") };
        says(&import(&absent).unwrap_err(), "no tensor `absent`", "`other`");
        let nameless = ImportRequest { tensor: Some("axis".into()), ..blocks("bare.pt") };
        says(&import(&nameless).unwrap_err(), "its only tensor has no name", "remove `--tensor`");
        let deep = ImportRequest { num_layers: Some(6), ..blocks("bare.pt") };
        says(&import(&deep).unwrap_err(), "5 rows, but a model of 6 blocks needs 6", "hidden_states");
    }

    #[test]
    fn use_the_selected_tensor_site_and_name() {
        let chosen = |name: &str, tensor: &str, site| {
            let tensor = Some(tensor.to_owned());
            import(&ImportRequest { tensor, site: Some(site), name: Some("mine".into()), ..request(name) }).unwrap()
        };
        let file = chosen("nested.pt", "layers.7", Site::BlockOut(7));
        assert_eq!((file.name.as_str(), &file.sites[&Site::BlockOut(7)].direction), ("mine", &matrix()[2]));
        assert_eq!(chosen("several.npz", "other", Site::Embed).sites[&Site::Embed].direction, matrix()[1]);
        let vector = ImportRequest { site: Some(Site::BlockOut(3)), num_layers: Some(3), ..request("vector.npy") };
        says(&import(&vector).unwrap_err(), "block.3.out does not exist", "block.2.out");
        let named = import(&ImportRequest { site: Some(Site::Embed), ..request("vector.npy") }).unwrap();
        assert_eq!((named.name.as_str(), named.fingerprint), ("vector", None));
    }

    #[test]
    fn refuse_other_files() {
        says(&import(&blocks("cube.npy")).unwrap_err(), "neither a vector nor a matrix", "[layers, hidden_size]");
        says(&import(&blocks("integers.pt")).unwrap_err(), "no floating-point tensor", "float32");
        says(&import(&blocks("big_endian.npy")).unwrap_err(), ">f4", "float32");
        says(&import(&blocks("protocol4.pt")).unwrap_err(), "contains more than tensors", "torch.save");
        says(&import(&blocks("legacy.pt")).unwrap_err(), "older than PyTorch 1.6", "torch.load");
        says(&import(&blocks("stranger.zip")).unwrap_err(), "not a PyTorch file", ".npz");
        says(&import(&blocks("expected.json")).unwrap_err(), "unknown file format", ".safetensors");
        says(&import(&blocks("absent.npy")).unwrap_err(), "cannot read the file", "path");
        assert!(import(&blocks("numpy_inside.pt")).is_err());
        assert!(import(&blocks("absent.npy")).unwrap_err().place.unwrap().ends_with("absent.npy"));
    }

    #[test]
    fn survive_damaged_files() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["matrix_fortran.npy", "several.npz", "dict_bf16.pt", "nested.pt", "plain.safetensors"] {
            let bytes = fs::read(fixture(name)).unwrap();
            let path = folder.path().join(name);
            let damaged = ImportRequest { path: path.clone(), tensor: Some("axis".into()), ..blocks(name) };
            for length in (0..bytes.len()).step_by(7) {
                fs::write(&path, &bytes[..length]).unwrap();
                let problem = import(&damaged).unwrap_err();
                assert!(problem.hint.is_some() && problem.place.is_some(), "{name} cut at {length}: {problem:?}");
            }
            for i in (0..bytes.len()).step_by(3) {
                let mut changed = bytes.clone();
                changed[i] ^= 0xff;
                fs::write(&path, &changed).unwrap();
                let _ = import(&damaged);
            }
        }
    }

    #[test]
    fn of_an_axis_file_replace_its_fingerprint() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        fs::write(&path, example().to_bytes().unwrap()).unwrap();
        let stamped =
            import(&ImportRequest { path, fingerprint: Some("sha256:bb".into()), ..ImportRequest::default() }).unwrap();
        assert_eq!(stamped.fingerprint.as_deref(), Some("sha256:bb"));
        assert_ne!(stamped.sha256, example().sha256);
        assert_eq!((stamped.name, stamped.sites), (example().name, example().sites));
    }
}
