// Times AWS's own crate on one EIF: its reader, which reads and hashes the file, and the measurements it gives. Prints JSON.
use aws_nitro_enclaves_image_format::utils::{eif_reader::EifReader, get_pcrs};
use sha2::{Digest, Sha384};
use std::time::Instant;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let rounds: usize = arguments[2].parse().expect("rounds");
    let mut seconds = Vec::new();
    let mut pcr0 = String::new();
    for _ in 0..rounds {
        let start = Instant::now();
        let mut eif = EifReader::from_eif(arguments[1].clone()).expect("an EIF");
        assert!(eif.check_crc());
        let signed = eif.signature_section.is_some();
        let pcrs = get_pcrs(&mut eif.image_hasher, &mut eif.bootstrap_hasher, &mut eif.app_hasher, &mut eif.cert_hasher, Sha384::new(), signed).expect("PCRs");
        seconds.push(start.elapsed().as_secs_f64());
        pcr0 = pcrs["PCR0"].clone();
    }
    seconds.sort_by(|a, b| a.partial_cmp(b).expect("numbers"));
    println!("{{\"median\": {}, \"least\": {}, \"pcr0\": \"{}\"}}", seconds[rounds / 2], seconds[0], pcr0);
}
