//! One suite, two engines: what the store promises holds on SQLite and on Postgres alike.
//!
//! The Postgres half needs a server: `tests/run` starts one and sets `PHALANX_TEST_POSTGRES_URL`. Without it those cases
//! fail; they are never skipped. Every case has a file or a schema of its own, so all of them run side by side.

mod agents;
mod alerts;
mod blobs;
mod deliveries;
mod deployments;
mod due;
mod executions;
mod groups;
mod health;
mod keys;
mod leases;
mod links;
mod logs;
mod nodes;
mod plans;
mod rollouts;
mod rollups;
mod s3;
mod sealed;
mod waiting;
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
    waiting:
        only_the_queued_are_postponed,
        what_never_began_is_withdrawn;
    groups:
        two_thousand_writers_each_win_once,
        the_same_key_twice_in_one_batch,
        ends_are_recorded_with_their_rows,
        hundreds_are_withdrawn_at_once,
        a_refused_row_takes_nobody_with_it,
        closing_writes_what_waits;
    health:
        a_crash_loop_goes_on_until_it_ends,
        instances_say_how_they_are,
        sessions_by_what_they_executed;
    rollouts:
        orders_come_in_their_sequence,
        samples_by_their_end_and_their_acceptance,
        failed_checks_of_who_lives_or_ended_since;
    alerts:
        one_open_alert_a_rule_by_whoever_read_last,
        alerts_are_listed_by_status_and_purged,
        minutes_are_judged_by_whoever_holds_the_lease,
        policies_are_replaced_and_keep_their_secret;
    deliveries:
        a_delivery_is_attempted_by_one_until_it_is_over,
        a_callback_is_kept_once_with_the_end,
        whoever_cannot_be_told_is_gone_past,
        callbacks_are_listed_and_sent_again,
        who_is_gone_is_sent_nothing_until_asked_anew,
        a_policy_that_is_put_anew_has_its_receivers_back,
        attempts_go_with_their_deliveries,
        two_secrets_sign_for_a_while;
    rollups:
        ended_executions_by_their_end,
        cells_are_written_with_their_position,
        cells_are_read_by_agent_span_and_time_and_purged,
        what_never_ran_has_no_latency;
    logs:
        lines_in_order_from_where_one_stopped,
        an_agents_newest_lines,
        purged_by_age_in_slices,
        lines_of_other_accounts_stay_there;
    keys:
        an_empty_store_begins_once,
        found_by_hash_until_revoked,
        rotated_once_listed_and_revoked,
        limits_and_walls_are_kept_and_changed,
        limits_are_leased_to_one_at_a_time,
        environments_are_sealed_and_audits_kept;
    leases:
        of_many_that_race_one_holds_it,
        a_writer_that_stands_still_is_not_waited_for,
        held_while_renewed_and_given_back,
        who_was_overtaken_writes_nothing,
        who_held_it_too_long_writes_nothing,
        an_unfinished_deployment_has_the_word;
    agents:
        accepted_whole_or_not_at_all,
        of_two_that_race_one_wins,
        an_id_lives_again_after_deletion,
        statuses_follow_deployments_and_traffic,
        filters_combine,
        sorts_and_pages,
        versions_artifacts_and_locks,
        other_accounts_see_nothing;
    blobs:
        code_goes_there_and_comes_back,
        rows_from_before_are_still_read,
        missing_or_spoilt_code_is_named,
        nothing_is_committed_that_could_not_be_put,
        archives_go_when_nobody_needs_them,
        an_environment_is_kept_once_and_replaced_when_spoilt;
    deployments:
        advanced_by_whoever_read_last,
        unfinished_oldest_first,
        traffic_is_replaced_whole,
        of_one_account_only;
    nodes:
        beats_replace,
        a_row_without_labels_is_read,
        instances_of_a_lost_node_end_with_its_envelopes,
        envelopes_grow_by_generations,
        instances_live_and_end,
        scaling_is_kept_newest_first;
}

/// Cases that open the same rows more than once.
macro_rules! shared {
    ($($room:ident: $($case:ident),+ $(,)?;)+) => {
        mod shared {
            $(mod $room {$(
                mod $case {
                    use crate::world::World;

                    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn sqlite() -> domain::Result<()> {
                        let world = World::sqlite(concat!(stringify!($room), "_", stringify!($case))).await;
                        crate::$room::$case(&world).await?;
                        world.close().await;
                        Ok(())
                    }

                    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn postgres() -> domain::Result<()> {
                        let world = World::postgres(concat!(stringify!($room), "_", stringify!($case))).await;
                        crate::$room::$case(&world).await?;
                        world.close().await;
                        Ok(())
                    }
                }
            )+})+
        }
    };
}

shared! {
    due:
        receivers_have_their_turns,
        a_row_that_cannot_be_sent_is_over_and_holds_up_nobody,
        a_look_costs_the_same_however_many_are_due;
    sealed:
        taken_over_to_another_key,
        without_a_key_nothing_is_lost,
        resealed_while_others_write,
        variables_open_in_their_own_place;
}
