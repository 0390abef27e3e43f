//! One suite, two engines: what the bus promises holds in memory and over NATS alike. Where the
//! promise differs, the case says so through `World::engine`.
//!
//! The NATS half needs a server: `tests/run` starts one and sets `PHALANX_TEST_NATS_URL`. Without it
//! those cases fail; they are never skipped. Every case has an account of its own, so all of them
//! run side by side on one server.

mod dead;
mod events;
mod lifecycle;
mod links;
mod nats_only;
mod proxy;
mod requests;
mod slots;
mod subjects;
mod traces;
mod work;
mod world;

/// Every case once per engine.
macro_rules! conformance {
    ($($room:ident: $($case:ident),+ $(,)?;)+) => {
        mod memory {
            $($(
                #[tokio::test]
                async fn $case() -> Result<(), bus::Error> {
                    crate::$room::$case(crate::world::World::memory(stringify!($case))).await
                }
            )+)+
        }
        mod nats {
            $($(
                #[tokio::test]
                async fn $case() -> Result<(), bus::Error> {
                    crate::$room::$case(crate::world::World::nats(stringify!($case)).await).await
                }
            )+)+
        }
    };
}

conformance! {
    requests:
        a_request_is_answered_with_headers_both_ways,
        nobody_there_is_said_at_once,
        a_group_shares_and_each_request_goes_to_one,
        two_groups_hear_it_both,
        without_a_group_the_first_answer_counts,
        silence_of_all_is_an_error,
        no_answer_is_a_timeout,
        a_dropped_request_is_said_at_once,
        a_full_server_is_busy_at_once,
        a_server_that_left_gets_nothing,
        an_answer_too_large_is_an_error_on_both_sides;
    events:
        patterns_choose,
        nobody_listening_is_no_error,
        a_slow_reader_loses_the_oldest_and_is_told,
        a_dropped_subscription_ends;
    work:
        stored_before_anybody_works,
        an_id_counts_once_per_subject,
        acknowledged_is_gone,
        a_retry_does_not_come_before_its_delay,
        a_dropped_delivery_comes_again,
        in_progress_keeps_it,
        competing_workers_share_without_doubles,
        one_slot_keeps_the_order,
        workers_of_two_subjects_do_not_meet,
        a_worker_that_left_leaves_the_rest;
    dead:
        too_often_is_a_dead_letter,
        too_often_dropped_is_a_dead_letter,
        of_all_subjects_of_one_account_newest_first,
        put_back_once,
        a_last_retry_keeps_the_message,
        only_the_newest_of_a_subject_are_kept;
    slots:
        slots_bound_what_is_in_hand,
        slots_can_shrink_and_grow;
    subjects:
        hostile_tokens_stay_apart,
        hostile_ids_and_headers_are_carried;
    traces:
        a_request_carries_the_span_that_sends_it,
        stored_work_carries_it_as_well,
        where_no_span_is_made_no_header_is_sent;
    lifecycle:
        too_large_is_refused_everywhere,
        ping_answers,
        drain_ends_the_takers_and_keeps_sending,
        a_next_that_is_cancelled_loses_nothing;
}
