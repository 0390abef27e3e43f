//! One suite, two engines: what the store promises holds on SQLite and on Postgres alike.
//!
//! The Postgres half needs a server: `tests/run` starts one and sets `PHALANX_TEST_POSTGRES_URL`. Without it those cases
//! fail; they are never skipped. Every case has a file or a schema of its own, so all of them run side by side.

mod executions;
mod groups;
mod world;

/// Every case once per engine.
macro_rules! conformance {
    ($($room:ident: $($case:ident),+ $(,)?;)+) => {
        mod sqlite {
            $(mod $room {$(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() -> domain::Result<()> {
                    let world = crate::world::World::sqlite(concat!(stringify!($room), "_", stringify!($case))).await;
                    crate::$room::$case(&world.store).await?;
                    world.close().await;
                    Ok(())
                }
            )+})+
        }
        mod postgres {
            $(mod $room {$(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() -> domain::Result<()> {
                    let world = crate::world::World::postgres(concat!(stringify!($room), "_", stringify!($case))).await;
                    crate::$room::$case(&world.store).await?;
                    world.close().await;
                    Ok(())
                }
            )+})+
        }
    };
}

conformance! {
    executions:
        inserted_once_and_read_back,
        a_start_is_taken_once,
        an_end_is_recorded_once,
        an_end_without_a_start_is_an_end,
        a_later_attempt_wins,
        again_is_queued_until_it_is_due,
        a_loss_counts_and_queues,
        only_the_queued_are_cancelled,
        progress_only_of_the_running_attempt,
        lists_filter_page_and_count,
        unfinished_by_due_time_and_no_others,
        purge_takes_the_old_in_slices,
        every_text_comes_back_as_it_went,
        a_megabyte_comes_back,
        accounts_do_not_meet;
    groups:
        two_thousand_writers_each_win_once,
        the_same_key_twice_in_one_batch,
        a_refused_row_takes_nobody_with_it,
        closing_writes_what_waits;
}
