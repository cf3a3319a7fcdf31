defmodule Brain.Roster.PropertyTest do
  @moduledoc """
  The properties of the roster. `Brain.World` holds the model and says what is checked at each step.

  `Brain.Roster.MutationTest` weakens the code in ways that these must notice.
  """
  use ExUnit.Case, async: true

  import Brain.Prop
  alias Brain.{Roster, World}

  test "through loss, repetition, disorder, restarts and snapshots every step is right, and all converges" do
    check(World.commands(), &World.run/1, numtests: 1000)
  end

  test "all changes once, Shields interleaved any way, no snapshot: equal to the truth" do
    check(World.in_order(), &World.run(&1, Roster, fn w -> deltas_only(w) end), numtests: 500)
  end

  test "changes and a snapshot give the same" do
    check(World.writings(), fn commands ->
      w = written(commands)
      by_changes = deltas_only(w)
      by_pages = %{new() | shields: by_changes.shields, r: shown(by_changes.shields)} |> pages(3)
      same!(World.view(by_changes), World.view(by_pages))
      same!(versions(by_changes), versions(by_pages))
    end)
  end

  test "pages of any size give what one page gives, whatever was there before" do
    type = {World.writings(), World.writings(), :proper_types.choose(1, 5)}

    check(type, fn {before, later, size} ->
      # The roster has what was written first; the snapshot is of what was written in all.
      [a, b] =
        for size <- [size, 1_000_000] do
          w = before |> written() |> deltas_only()
          w = Enum.reduce(later, w, fn c, w -> elem(World.step(w, c), 0) end)
          pages(%{w | net: []}, size)
        end

      same!(World.view(a), World.truth(a))
      same!(World.view(a), World.view(b))
      same!(versions(a), versions(b))
    end)
  end

  test "a change applied again, and a hidden part shown again, change nothing" do
    check(World.writings(), fn commands ->
      w = written(commands)
      messages = flush(w).net
      once = deltas_only(w)
      view = World.view(once)

      for {:changes, s, e, a, first, changes} <- messages do
        :duplicate = Roster.changes(once.r, s, e, a, first, changes)
      end

      again =
        Enum.reduce(once.shields, once, fn {s, %{epoch: e}}, w ->
          {r, _, _} = Roster.hide(w.r, s, e)
          {r, _, _} = Roster.show(r, s, e)
          %{w | r: r}
        end)

      same!(World.view(again), view)
    end)
  end

  test "the view of a hidden part is empty, and nothing of a deleted one comes back" do
    check(World.writings(), fn commands ->
      w = commands |> written() |> flush()
      applied = deltas_only(w)

      hidden =
        Enum.reduce(w.shields, applied, fn {s, %{epoch: e}}, w ->
          {r, _, _} = Roster.hide(w.r, s, e)
          %{w | r: r}
        end)

      same!(World.view(hidden), %{})

      gone =
        Enum.reduce(w.shields, hidden, fn {s, %{epoch: e}}, w ->
          {r, _, _} = Roster.delete(w.r, s, e)
          %{w | r: r}
        end)

      for {:changes, s, e, a, first, changes} <- w.net do
        :unknown = Roster.changes(gone.r, s, e, a, first, changes)
        :unknown = Roster.begin_snapshot(gone.r, s, e, a, 1, :forward)
        :unknown = Roster.page(gone.r, s, e, a, 1, 0, 9, true, [])
      end

      same!(Roster.stats(gone.r), %{members: 0, rooms: 0, tenants: 0})

      same!(Enum.map([gone.r.parts, gone.r.versions, gone.r.roots], &:ets.info(&1, :size)), [
        0,
        0,
        0
      ])
    end)
  end

  test "a snapshot that may go back sets the version back, and only that one" do
    r = Roster.new()
    {r, [], []} = Roster.show(r, "s1", 7)
    puts = for n <- 1..3, do: {:put, World.entry(7, "s1", "a", n, n, 0)}
    {:ok, r, _} = Roster.changes(r, "s1", 7, "AAA", 1, puts)
    [{:put, one} | _] = puts

    {:ok, r} = Roster.begin_snapshot(r, "s1", 7, "AAA", 1, :forward)
    assert {:broken, r} = Roster.page(r, "s1", 7, "AAA", 1, 0, 1, true, [one])
    assert {3, 3, _} = Roster.version(r, "s1", 7, "AAA")

    {:ok, r} = Roster.begin_snapshot(r, "s1", 7, "AAA", 2, :back)
    assert {:done, r, facts} = Roster.page(r, "s1", 7, "AAA", 2, 0, 1, true, [one])
    assert {1, 1, _} = Roster.version(r, "s1", 7, "AAA")
    assert length(facts) == 2
  end

  ## Helpers

  defp same!(a, b) do
    if a != b, do: raise("not the same:\n#{inspect(a)}\n#{inspect(b)}")
    true
  end

  defp new, do: World.new(Roster)

  defp written(commands) do
    Enum.reduce(commands, new(), fn c, w -> elem(World.step(w, c), 0) end)
  end

  defp flush(w) do
    for s <- ["s1", "s2"], a <- ["AAA", "BBB"], reduce: w do
      w -> elem(World.step(w, {:flush, s, a}), 0)
    end
  end

  defp deltas_only(w), do: w |> flush() |> drain()
  defp drain(%{net: []} = w), do: w
  defp drain(w), do: w |> World.step({:deliver, 0}) |> elem(0) |> drain()

  defp shown(shields) do
    Enum.reduce(shields, Roster.new(), fn {s, %{epoch: e}}, r -> elem(Roster.show(r, s, e), 0) end)
  end

  defp pages(w, size) do
    w =
      for {s, _} <- w.shields, a <- ["AAA", "BBB"], reduce: w do
        w -> elem(World.step(w, {:sync, s, a, size}), 0)
      end

    drain(w)
  end

  defp versions(w) do
    for {s, %{epoch: e}} <- w.shields, a <- ["AAA", "BBB"] do
      Roster.version(w.r, s, e, a)
    end
  end
end
