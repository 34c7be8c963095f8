//! What the messages of an answer cost to be told apart and passed on: one row, and many.

use std::hint::black_box;

use bytes::BytesMut;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use pgherd_protocol::{Frame, peek_header, split_frame, tag};

const MAX_MESSAGE: usize = 1024 * 1024;

/// So many rows of a key and a text, and what is around them.
fn answer(rows: usize) -> BytesMut {
    let row = [
        &[0, 2, 0, 0, 0, 4, b'4', b'7', b'1', b'1', 0, 0, 0, 80][..],
        &[b'x'; 80],
    ]
    .concat();
    let parts = [
        (tag::backend::ROW_DESCRIPTION, 1, vec![0; 60]),
        (tag::backend::DATA_ROW, rows, row),
        (tag::backend::COMMAND_COMPLETE, 1, b"SELECT 1\0".to_vec()),
        (tag::backend::READY_FOR_QUERY, 1, b"I".to_vec()),
    ];
    let mut bytes = BytesMut::new();
    for (tag, count, body) in parts {
        for _ in 0..count {
            let frame = Frame::new(tag, &body).expect("it is short");
            bytes.extend_from_slice(frame.bytes());
        }
    }
    bytes
}

/// As the relay does it: rows are passed on as they lie, what is between them one by one.
fn pass_on(inbox: &mut BytesMut, outbox: &mut BytesMut) {
    loop {
        let mut run = 0;
        while let Ok(Some(header)) = peek_header(&inbox[run..], MAX_MESSAGE) {
            if header.tag != tag::backend::DATA_ROW {
                break;
            }
            run += header.len;
        }
        outbox.extend_from_slice(&inbox.split_to(run));
        match split_frame(inbox, MAX_MESSAGE) {
            Ok(Some(frame)) => outbox.extend_from_slice(frame.bytes()),
            _ => return,
        }
    }
}

fn passing_on(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pass an answer on");
    for rows in [1, 100] {
        let answer = answer(rows);
        let mut outbox = BytesMut::with_capacity(answer.len());
        group.throughput(Throughput::Bytes(answer.len() as u64));
        group.bench_function(format!("{rows} rows"), |bencher| {
            bencher.iter_batched_ref(
                || answer.clone(),
                |inbox| {
                    outbox.clear();
                    pass_on(black_box(inbox), &mut outbox);
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, passing_on);
criterion_main!(benches);
