defmodule Brain.IncarnationsTest do
  @moduledoc "Life and death of Shields under any clock, any order of beats, any pause of our own."
  use ExUnit.Case, async: true

  import Brain.Prop

  import :proper_types,
    only: [list: 1, frequency: 1, elements: 1, choose: 2, integer: 0, boolean: 0]

  alias Brain.{Incarnations, Peers}

  @down 3_000
  @forget 60_000

  defp commands do
    id = elements(["s1", "s2"])
    epoch = elements([1, 2, 3])

    list(
      frequency([
        {10, {:beat, id, epoch, choose(1, 50)}},
        {1, {:goodbye, id, epoch, choose(1, 50)}},
        {10, {:tick, choose(0, 1_500)}},
        # A clock that jumps, back or by hours.
        {2, {:tick, integer()}},
        {1, {:tick, elements([-10_000_000, 3_600_000, 86_400_000])}},
        {2, {:cut, boolean()}}
      ])
    )
  end

  # Follows the effects and demands that they are possible, one after the other.
  defp follow(seen, {:show, id, epoch}) do
    if match?({_, true}, seen[id]),
      do: raise("shown beside another: #{inspect({id, epoch, seen})}")

    Map.put(seen, id, {epoch, true})
  end

  defp follow(seen, {:hide, id, epoch}) do
    {^epoch, true} = seen[id]
    Map.put(seen, id, {epoch, false})
  end

  defp follow(seen, {:delete, id, epoch}) do
    {^epoch, _} = seen[id]
    Map.delete(seen, id)
  end

  defp follow(seen, {:count, _}), do: seen

  defp step(s, now, {:beat, id, e, up}), do: {Incarnations.beat(s, now, id, e, up, false), now}
  defp step(s, now, {:goodbye, id, e, up}), do: {Incarnations.beat(s, now, id, e, up, true), now}
  defp step(s, now, {:tick, by}), do: {Incarnations.tick(s, now + by), now + by}
  defp step(s, now, {:cut, true}), do: {{Incarnations.freeze(s, now), []}, now}
  defp step(s, now, {:cut, false}), do: {{Incarnations.thaw(s, now), []}, now}

  defp new, do: Incarnations.new(@down, @forget) |> Incarnations.thaw(0)

  test "one incarnation of an id is seen at a time, and what is in force is what was told" do
    check(commands(), &effects_are_possible(&1, Incarnations), numtests: 3000)
  end

  test "noticed: an old incarnation that is not deleted" do
    mod =
      mutant(["lib/brain/incarnations.ex"], Incarnations, Brain.MutantDelete.Incarnations, [
        {"[{:delete, id, old}, {:show, id, epoch}]", "[{:show, id, epoch}]"}
      ])

    assert counterexample(commands(), &effects_are_possible(&1, mod),
             numtests: 3000,
             shrink: false
           )
  end

  defp effects_are_possible(commands, mod) do
    s = mod.new(@down, @forget) |> mod.thaw(0)

    Enum.reduce(commands, {s, 0, %{}}, fn command, {s, now, seen} ->
      {{s, effects}, now} =
        case command do
          {:beat, id, e, up} -> {mod.beat(s, now, id, e, up, false), now}
          {:goodbye, id, e, up} -> {mod.beat(s, now, id, e, up, true), now}
          {:tick, by} -> {mod.tick(s, now + by), now + by}
          {:cut, true} -> {{mod.freeze(s, now), []}, now}
          {:cut, false} -> {{mod.thaw(s, now), []}, now}
        end

      seen = Enum.reduce(effects, seen, &follow(&2, &1))
      told = for {id, epoch, seen?} <- mod.in_force(s), into: %{}, do: {id, {epoch, seen?}}
      if told != seen, do: raise("#{inspect(told)} was told as #{inspect(seen)}")
      {s, now, seen}
    end)

    true
  end

  test "no incarnation is seen again after its goodbye" do
    check(
      commands(),
      fn commands ->
        Enum.reduce(commands, {new(), 0, MapSet.new()}, fn command, {s, now, ended} ->
          {{s, effects}, now} = step(s, now, command)

          for {:show, id, epoch} <- effects, MapSet.member?(ended, {id, epoch}) do
            raise("#{inspect({id, epoch})} came back")
          end

          ended =
            case {command, effects} do
              {{:goodbye, id, epoch, _}, [{:delete, _, _} | _]} -> MapSet.put(ended, {id, epoch})
              _ -> ended
            end

          {s, now, ended}
        end)

        true
      end,
      numtests: 2000
    )
  end

  test "whoever beats between any two ticks stays seen, however the clock jumps" do
    type = list(elements([0, 100, 1_000, 5_000, 3_600_000, -3_600_000, 86_400_000]))

    check(type, fn jumps ->
      Enum.reduce(jumps, {beat(new(), 0, 0), 0, 1}, fn jump, {s, now, n} ->
        now = now + jump
        {s, effects} = Incarnations.tick(s, now)
        [] = effects
        {beat(s, now, n), now, n + 1}
      end)

      true
    end)
  end

  defp beat(s, now, n) do
    {s, _} = Incarnations.beat(s, now, "s1", 1, n, false)
    s
  end

  test "while this Brain is cut off nobody is hidden, and afterwards each has ten seconds" do
    check(list(choose(0, 5_000)), fn pauses ->
      s = new() |> beat(0, 1) |> Incarnations.freeze(0)

      {s, now} =
        Enum.reduce(pauses, {s, 0}, fn pause, {s, now} ->
          {s, []} = Incarnations.tick(s, now + pause)
          {s, now + pause}
        end)

      s = Incarnations.thaw(s, now)

      {s, now} =
        Enum.reduce(1..9, {s, now}, fn _, {s, now} ->
          {s, []} = Incarnations.tick(s, now + 1_000)
          {s, now + 1_000}
        end)

      {s, [{:hide, "s1", 1}]} = Incarnations.tick(s, now + 1_000)
      # The grace of a second cut is not for those who were silent before it.
      s = s |> Incarnations.freeze(now) |> Incarnations.thaw(now)
      {_, []} = Incarnations.tick(s, now)
      true
    end)
  end

  test "the silent is hidden, then forgotten, and comes back with a newer beat only" do
    s = beat(new(), 0, 500)
    {s, effects} = ticks(s, 0, 3)
    assert effects == [{:hide, "s1", 1}]
    {s, effects} = ticks(s, 3_000, 57)
    assert effects == [{:delete, "s1", 1}]
    assert {s, [{:count, :stale_epoch}]} = Incarnations.beat(s, 60_000, "s1", 1, 500, false)
    assert {_, [{:show, "s1", 1}]} = Incarnations.beat(s, 60_000, "s1", 1, 501, false)
  end

  test "a lower epoch follows once the higher is silent: a clock that was years off does no harm" do
    s = new()
    {s, [{:show, "s1", 9_000}]} = Incarnations.beat(s, 0, "s1", 9_000, 1, false)
    {s, [{:count, :shield_conflicts}]} = Incarnations.beat(s, 0, "s1", 7, 1, false)
    {s, []} = Incarnations.tick(s, 1_000)
    {s, _} = Incarnations.beat(s, 1_000, "s1", 7, 2, false)
    {s, []} = Incarnations.tick(s, 2_000)
    {s, _} = Incarnations.beat(s, 2_000, "s1", 7, 3, false)
    assert {_, [{:delete, "s1", 9_000}, {:show, "s1", 7}]} = Incarnations.tick(s, 3_000)
  end

  defp ticks(s, now, n) do
    Enum.reduce(1..n, {s, []}, fn i, {s, effects} ->
      {s, more} = Incarnations.tick(s, now + i * 1_000)
      {s, effects ++ more}
    end)
  end

  test "forged beats cost a bounded memory" do
    s =
      Enum.reduce(1..30_000, new(), fn n, s ->
        elem(Incarnations.beat(s, 0, "x#{n}", 1, 1, false), 0)
      end)

    assert map_size(s.shields) == 10_000

    s =
      Enum.reduce(1..30_000, new(), fn n, s ->
        elem(Incarnations.beat(s, 0, "s1", n, 1, true), 0)
      end)

    {s, _} = Incarnations.tick(s, 100)
    assert map_size(s.tombstones) <= 20_000

    s =
      Enum.reduce(1..100, new(), fn n, s ->
        elem(Incarnations.beat(s, 0, "s1", n, 1, false), 0)
      end)

    assert map_size(s.shields["s1"].beating) == 8
  end

  describe "peers" do
    test "silence, goodbye and old beats" do
      p = Peers.new() |> Peers.beat(0, "b", 1, 10, true, false)
      assert Peers.warm(p) == ["b"]
      assert p |> Peers.beat(0, "b", 1, 10, false, false) |> Peers.warm() == ["b"]
      assert p |> Peers.beat(0, "b", 1, 11, false, false) |> Peers.warm() == []
      assert p |> Peers.beat(0, "b", 1, 11, true, true) |> Peers.warm() == []
      assert p |> Peers.tick(2_999) |> Peers.warm() == ["b"]
      assert p |> Peers.tick(3_000) |> Peers.warm() == []
      # The newer of two processes with one id.
      assert p |> Peers.beat(0, "b", 0, 99, false, false) |> Peers.warm() == ["b"]
    end

    test "every tenant has one emitter, and few change theirs when a Brain comes" do
      accounts = for n <- 1..1_000, do: "A#{n}"
      two = Map.new(accounts, &{&1, Brain.Rounds.emitter(&1, ["a", "b"])})
      three = Map.new(accounts, &{&1, Brain.Rounds.emitter(&1, ["a", "b", "c"])})
      moved = Enum.filter(accounts, &(two[&1] != three[&1]))
      assert Enum.all?(moved, &(three[&1] == "c"))
      assert length(moved) in 200..466
    end
  end
end
