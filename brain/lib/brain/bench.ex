defmodule Brain.Bench do
  @moduledoc """
  Speed and memory of one shard's work, without a network: `bin/brain eval 'Brain.Bench.run()'`.

  Joins are measured as a shard does them: the blob of a batch is read, checked and applied, its
  facts noted as dirt, and each tenth of a second's worth of it told in a round.
  """

  alias Brain.Link.Terms
  alias Brain.{Roster, Rounds}

  @account "ABENCH"
  @epoch 116_649_512_964_659_755
  @batch 125
  @room_of 10_000

  @doc "Prints a table; `members` is how many are tracked at the end."
  @spec run(pos_integer) :: :ok
  def run(members \\ 100_000) do
    # What is not measured: generating the batches.
    rooms_of_100 = batches(members, &"room-#{div(&1, 100)}")
    one_room = batches(@room_of, fn _ -> "stadium" end)

    {joins_us, r} = best(3, fn -> join(Roster.new(), rooms_of_100) end)
    bytes = Roster.memory(r)
    {leave_us, _} = :timer.tc(fn -> leave(r, members) end)
    Roster.close(r)

    {big_us, big} = best(3, fn -> join(Roster.new(), one_room) end)
    {list_us, listed} = average(20, fn -> Roster.members(big, @account, "stadium", 16) end)
    ^listed = listed
    {one_us, _} = average(1000, fn -> Roster.member(big, @account, "stadium", "user-7", 16) end)
    {snapshot_us, copy} = best(3, fn -> snapshot(big) end)
    {hide_us, {hidden, _, _}} = :timer.tc(fn -> Roster.hide(big, "s", @epoch) end)
    {show_us, {shown, _, _}} = :timer.tc(fn -> Roster.show(hidden, "s", @epoch) end)
    {delete_us, _} = :timer.tc(fn -> Roster.delete(shown, "s", @epoch) end)
    Roster.close(copy)
    Roster.close(big)

    # A small change among many must not look at all of them.
    {full, _} = fill(members)
    {delta_us, _} = small_delta(full)
    Roster.close(full)

    table([
      {"joins, rooms of 100", per_second(members, joins_us), "/s of one core"},
      {"", joins_us / members, "µs a join"},
      {"joins, one room of #{@room_of}", per_second(@room_of, big_us), "/s of one core"},
      {"leaves, rooms of 100", per_second(members, leave_us), "/s of one core"},
      {"memory at #{members} members", bytes / members, "bytes a member (tables)"},
      {"a change among #{members} members", delta_us, "µs"},
      {"listing a room of #{@room_of}", list_us / 1000, "ms"},
      {"one user of it", one_us, "µs"},
      {"snapshot of #{@room_of} into empty", snapshot_us / 1000, "ms"},
      {"hiding a Shield with #{@room_of}", hide_us / 1000, "ms"},
      {"showing it again", show_us / 1000, "ms"},
      {"deleting it", delete_us / 1000, "ms"}
    ])
  end

  defp rounds do
    config = %{
      count_tick_ms: 1_000,
      full_limit: 500,
      state_max_bytes: 524_288,
      sessions_listed: 16,
      digest_ms: 10_000
    }

    Rounds.new(config, "bench")
  end

  defp join(r, batches) do
    {r, [], []} = Roster.show(r, "s", @epoch)
    rounds = Rounds.emitters(rounds(), r, ["bench"], 0)

    {r, _, _} =
      Enum.reduce(batches, {r, rounds, 1}, fn blob, {r, rounds, first} ->
        {:ok, changes} = Terms.changes(blob, @batch)
        {:ok, r, facts} = Roster.changes(r, "s", @epoch, @account, first, changes)
        rounds = Rounds.note(rounds, @account, facts, first)

        # At 30,000 joins a second a tenth of a second brings 3,000.
        if rem(first - 1, 24 * @batch) == 0 do
          {rounds, out} = Rounds.tick(rounds, r, first, 4_194_304)
          for {_, command} <- out, do: Terms.encode(command)
          {r, rounds, first + @batch}
        else
          {r, rounds, first + @batch}
        end
      end)

    r
  end

  defp leave(r, members) do
    {seq, _, _} = Roster.version(r, "s", @epoch, @account)

    1..members
    |> Enum.chunk_every(@batch)
    |> Enum.reduce(seq + 1, fn chunk, first ->
      gone = for n <- chunk, do: {:gone, "room-#{div(n, 100)}", "user-#{n}", session(n)}
      {:ok, _, _} = Roster.changes(r, "s", @epoch, @account, first, gone)
      first + length(gone)
    end)
  end

  defp snapshot(from) do
    {seq, _, _} = Roster.version(from, "s", @epoch, @account)
    entries = for n <- 1..@room_of, do: entry(n, "stadium")
    pages = entries |> Enum.sort() |> Enum.chunk_every(1_000) |> Enum.map(&Terms.encode/1)
    {r, _, _} = Roster.show(Roster.new(), "s", @epoch)
    {:ok, r} = Roster.begin_snapshot(r, "s", @epoch, @account, 1, :forward)

    pages
    |> Enum.with_index()
    |> Enum.reduce(r, fn {blob, n}, r ->
      {:ok, entries} = Terms.entries(blob)
      last? = n == length(pages) - 1
      {_, r, _} = Roster.page(r, "s", @epoch, @account, 1, n, seq, last?, entries)
      r
    end)
  end

  defp fill(members) do
    {join(Roster.new(), batches(members, &"room-#{div(&1, 100)}")), members}
  end

  defp small_delta(r) do
    {seq, _, _} = Roster.version(r, "s", @epoch, @account)

    average(1000, fn ->
      n = Process.get(:delta, 1)
      Process.put(:delta, n + 1)
      {room, user, id, _, meta, joined, active, hash} = entry(n, "room-#{div(n, 100)}")
      put = {:put, {room, user, id, seq + n, meta, joined, active, hash + 1}}
      {:ok, _, _} = Roster.changes(r, "s", @epoch, @account, seq + n, [put])
    end)
  end

  defp batches(members, room) do
    1..members
    |> Enum.chunk_every(@batch, @batch, :discard)
    |> Enum.map(fn chunk -> Terms.encode(for n <- chunk, do: {:put, entry(n, room.(n))}) end)
  end

  # Ids and a meta as long as real ones.
  defp entry(n, room) do
    hash = :erlang.phash2(n, 4_294_967_296) * 131_071
    meta = <<10, 16, 10, 4, "name", 18, 8, "user0000">>
    {room, "user-#{n}", session(n), n, meta, 1_780_000_000_000, 1_780_000_000_000, hash}
  end

  defp session(n), do: <<0x01929D1C7E3A7B6C::64, n::64>>

  defp best(times, fun) do
    for(_ <- 1..times, do: :timer.tc(fun)) |> Enum.min_by(&elem(&1, 0))
  end

  defp average(times, fun) do
    {us, result} = :timer.tc(fn -> Enum.reduce(1..times, nil, fn _, _ -> fun.() end) end)
    {us / times, result}
  end

  defp per_second(n, us), do: n * 1_000_000 / us

  defp table(rows) do
    for {what, value, unit} <- rows do
      IO.puts(
        "#{String.pad_trailing(what, 36)} #{value |> number() |> String.pad_leading(10)} #{unit}"
      )
    end

    :ok
  end

  defp number(value) when value >= 1000, do: value |> round() |> Integer.to_string()
  defp number(value), do: :erlang.float_to_binary(value / 1, decimals: 1)
end
