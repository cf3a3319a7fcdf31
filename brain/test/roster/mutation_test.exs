defmodule Brain.Roster.MutationTest do
  @moduledoc """
  Each test weakens the roster's code in one way, in a copy under another name, and demands that
  the properties of `Brain.World` notice. What they do not notice they do not prove.
  """
  use ExUnit.Case, async: true

  import Brain.Prop
  alias Brain.World

  @files ~w(lib/brain/roster/table.ex lib/brain/roster/snapshot.ex lib/brain/roster.ex)

  mutations = [
    {"a gap is applied", "first > at + 1 or is_map_key(r.torn, {ix, t}) ->",
     "is_map_key(r.torn, {ix, t}) ->"},
    {"a duplicate is applied", "last <= at ->", "last < 0 ->"},
    {"an overlap is applied from its start", "Enum.drop(changes, at + 1 - first)", "changes"},
    {"a leave is forgotten",
     "remove(r, ix, t, visible?, {room, user, session}, acc)\n        end", "acc\n        end"},
    {"an entry of the same session is not replaced", "change = bxor(hash, old_hash)",
     "change = 0"},
    {"a deleted incarnation stays", "r = give_up(%{r | incarnations: incarnations}, ",
     "_ = incarnations\nr = give_up(r, "},
    {"a fact forgets who was present", "present? = visible? and present?(r, t, room, user)",
     "present? = visible? and r == t"},
    {"a fact has the digest after",
     "facts = seen(r, visible?, t, room, user, true, facts, users, -1, hash, bytes)",
     "_ = seen(r, visible?, t, room, user, true, facts, users, -1, hash, bytes)\n" <>
       "facts = [{room, 1, user, true} | facts]"},
    {"hidden entries keep a user present",
     "{^t, ^room, ^user, _, ix} when is_map_key(r.visible, ix) -> true",
     "{^t, ^room, ^user, _, ix} when ix > 0 -> true"},
    {"a stale snapshot overwrites a newer state", "true <- snapshot.floor == :back or seq >= at,",
     ""},
    {"a page removes nothing", "held = held(r, ix, t, from, to)", "held = []"},
    {"a page's range begins anew", "{^room, user, session} -> {t, room, user, session, ix}",
     "{^room, _, _} -> {t, room, \"\", \"\", 0}"},
    {"a page out of turn is taken", "with true <- number == snapshot.number,",
     "with true <- number >= 0,"},
    {"the root forgets what a tenant was", "root(r, ix) |> bxor(share) |> bxor(new)",
     "root(r, ix) |> bxor(new)"},
    {"a version is set without its pages", "Table.set_version(r, ix, t, snapshot.seq)",
     "Table.set_version(r, ix, t, snapshot.seq + 1)"}
  ]

  for {{name, old, new}, n} <- Enum.with_index(mutations) do
    @old old
    @new new
    @copy Module.concat(Brain, "Mutant#{n}.Roster")
    test "noticed: #{name}" do
      mod = mutant(@files, Brain.Roster, @copy, [{@old, @new}])

      found =
        counterexample(World.commands(), &World.run(&1, mod), numtests: 50_000, shrink: false)

      assert found, "no property fails"
    end
  end

  test "noticed: a user of two Shields is counted twice" do
    commands = [
      {:put, "s1", "AAA", "a", 1, 0},
      {:put, "s2", "AAA", "a", 1, 0},
      {:next, "s1", "AAA"},
      {:next, "s2", "AAA"},
      {:hide, "s1"}
    ]

    assert World.run(commands)
    weaker = {"others? = present?(r, t, room, user)", "others? = r == t"}
    mod = mutant(@files, Brain.Roster, Brain.MutantTwice.Roster, [weaker])

    assert_raise RuntimeError, ~r/sums of a room|wrong about before/, fn ->
      World.run(commands, mod)
    end
  end

  test "noticed: a part between two versions takes changes" do
    commands = [
      {:put, "s2", "AAA", "b", 1, 0},
      {:flush, "s2", "AAA"},
      {:put, "s2", "AAA", "a", 1, 0},
      {:sync, "s2", "AAA", 1},
      # The first page, and then no more of them.
      {:deliver, 2},
      {:abort, "s2", "AAA"},
      {:deliver, 0}
    ]

    assert World.run(commands)
    weaker = {"first > at + 1 or is_map_key(r.torn, {ix, t}) ->", "first > at + 1 ->"}
    mod = mutant(@files, Brain.Roster, Brain.MutantTorn.Roster, [weaker])
    assert_raise RuntimeError, ~r/torn part moved/, fn -> World.run(commands, mod) end
  end

  # Chance finds this order of messages too seldom.
  test "noticed: changes are applied between two pages" do
    commands = [
      {:put, "s1", "AAA", "b", 3, 0},
      {:next, "s1", "AAA"},
      {:put, "s1", "AAA", "a", 1, 0},
      {:flush, "s1", "AAA"},
      {:gone, "s1", "AAA", "a", 1},
      {:put, "s1", "AAA", "c", 2, 0},
      {:flush, "s1", "AAA"},
      {:sync, "s1", "AAA", 1},
      # The first page, the change before it, the second page.
      {:deliver, 2},
      {:deliver, 0},
      {:deliver, 1}
    ]

    assert World.run(commands)

    weaker =
      {"Snapshot.begun?(snapshot) or first > at + 1 or is_map_key(r.torn, {ix, t})",
       "first > at + 1"}

    mod = mutant(@files, Brain.Roster, Brain.MutantBetween.Roster, [weaker])
    assert_raise RuntimeError, ~r/not what was written/, fn -> World.run(commands, mod) end
  end

  test "the unchanged copy passes: it is the mutation that is noticed" do
    mod = mutant(@files, Brain.Roster, Brain.Unchanged.Roster, [])
    refute counterexample(World.commands(), &World.run(&1, mod), numtests: 300)
  end
end
